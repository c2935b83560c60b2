#include "src/core/fused/memory_scan.h"

#include <algorithm>

#include "src/core/fused/fused_ops.h"
#include "src/core/fused/memory_chunk.h"
#include "src/core/ops.h"

namespace mnemo {
namespace {

// Beyond this many chunks the composition keeps the states between groups of this size only and
// runs each group again for its derivative.
constexpr int64_t kChunksKept = 64;

template <typename T>
std::vector<Var> Flatten(const MemoryRule& rule, T& object) {
  std::vector<Var> list;
  ForEachVar(rule, object, [&](Var& x) { list.push_back(x); });
  return list;
}

template <typename T>
void Unflatten(const MemoryRule& rule, std::span<const Var> list, T& object) {
  size_t next = 0;
  ForEachVar(rule, object, [&](Var& x) { x = list[next++]; });
  MNEMO_CHECK(next == list.size());
}

// Lengths of the pieces in which `count` tokens run: each ends where `period` tokens are full, of
// which the first `open` came before.
std::vector<int64_t> Pieces(int64_t count, int64_t open, int64_t period) {
  std::vector<int64_t> sizes;
  for (int64_t left = count, taken = open; left > 0; taken = 0) {
    sizes.push_back(std::min(left, period - taken));
    left -= sizes.back();
  }
  return sizes;
}

// Cut once, so that the gradients of the pieces are put together once.
std::vector<MemoryTokens> SplitTokens(const MemoryTokens& tokens, std::span<const int64_t> sizes) {
  std::vector<MemoryTokens> pieces(sizes.size());
  for (const auto member : {&MemoryTokens::q, &MemoryTokens::k, &MemoryTokens::v,
                            &MemoryTokens::theta, &MemoryTokens::eta, &MemoryTokens::alpha}) {
    if (!(tokens.*member).defined()) continue;
    const std::vector<Var> parts = Split(tokens.*member, 2, sizes);
    for (size_t i = 0; i < parts.size(); ++i) pieces[i].*member = parts[i];
  }
  return pieces;
}

// Chunk after chunk, beginning inside one if state.open is not empty.
MemoryScanResult ScanChunks(const MemoryRule& rule, const MemoryParameters& parameters,
                            const MemoryTokens& tokens, MemoryState state, const Tensor& resets) {
  MemoryScanResult result;
  std::vector<Var> reads;
  int64_t chunk = 0;
  const std::vector<int64_t> sizes = Pieces(tokens.q.dim(2), state.open.count, rule.chunk);
  for (const MemoryTokens& piece : SplitTokens(tokens, sizes)) {
    if (state.open.count == 0) {
      if (resets.defined()) {
        ResetMemoryState(rule, parameters, resets.Slice(1, chunk, chunk + 1), state);
      }
      ++chunk;
    }
    reads.push_back(ScanChunk(rule, parameters, piece, state, result.clamp_hits));
  }
  result.y = Concat(reads, 2);
  result.state = std::move(state);
  return result;
}

std::vector<Var> ComposeOnce(std::span<const Var> list, const MemoryScanAttributes& attributes) {
  MemoryScanInputs inputs;
  inputs.state.open.count = attributes.open_count;
  Unflatten(attributes.rule, list, inputs);
  MemoryTokens& tokens = inputs.tokens;
  const DType rows = tokens.q.dtype();
  for (Var* x : {&tokens.q, &tokens.k, &tokens.v}) *x = Widen(*x);
  MemoryScanResult result = ScanChunks(attributes.rule, inputs.parameters, tokens,
                                       std::move(inputs.state), attributes.resets);
  result.y = Cast(result.y, rows);
  return Flatten(attributes.rule, result);
}

// The composed definition. A long run is cut into groups of chunks that are rematerialized.
std::vector<Var> Compose(std::span<const Var> list, const MemoryScanAttributes& attributes) {
  const MemoryRule& rule = attributes.rule;
  MemoryScanInputs inputs;
  inputs.state.open.count = attributes.open_count;
  Unflatten(rule, list, inputs);
  const int64_t count = inputs.tokens.q.dim(2), group = kChunksKept * rule.chunk;
  const bool tracked =
      std::any_of(list.begin(), list.end(), [](const Var& x) { return x.tracked(); });
  if (!tracked || count <= group) return ComposeOnce(list, attributes);
  MemoryScanResult total;
  std::vector<Var> reads;
  MemoryState state = std::move(inputs.state);
  int64_t chunk = 0;
  const std::vector<int64_t> sizes = Pieces(count, state.open.count, group);
  for (const MemoryTokens& tokens : SplitTokens(inputs.tokens, sizes)) {
    MemoryScanAttributes part{rule, state.open.count, {}};
    const int64_t taken = state.open.count + tokens.q.dim(2);
    const int64_t begun = (taken + rule.chunk - 1) / rule.chunk - (state.open.count > 0 ? 1 : 0);
    if (attributes.resets.defined()) {
      part.resets = attributes.resets.Slice(1, chunk, chunk + begun);
    }
    MemoryScanInputs piece{tokens, inputs.parameters, std::move(state)};
    MemoryScanResult result;
    result.state.open.count = taken % rule.chunk;
    Unflatten(rule,
              Rematerialized([part](std::span<const Var> x) { return ComposeOnce(x, part); },
                             Flatten(rule, piece)),
              result);
    reads.push_back(result.y);
    if (rule.clamp > 0) {
      total.clamp_hits = total.clamp_hits.defined()
                             ? Add(Var(total.clamp_hits), Var(result.clamp_hits)).value()
                             : result.clamp_hits;
    }
    state = std::move(result.state);
    chunk += begun;
  }
  total.y = Concat(reads, 2);
  total.state = std::move(state);
  return Flatten(rule, total);
}

// Listed from the start of the program, not from the first call.
[[maybe_unused]] const FusedOpBase& memory_scan_op = MemoryScanOp();

void CheckShapes(const MemoryRule& rule, const MemoryTokens& tokens, const MemoryState& state,
                 const Tensor& resets) {
  const Shape& shape = tokens.q.shape();
  Require(tokens.q.rank() == 4 && shape[2] >= 1 && shape[3] == rule.head_dim,
          "memory_scan: q has shape {}, head dim is {}", shape, rule.head_dim);
  Require(tokens.k.shape() == shape && tokens.v.shape() == shape,
          "memory_scan: q, k, v of shapes {}, {}, {}", shape, tokens.k.shape(), tokens.v.shape());
  Shape gate = shape;
  gate.back() = 1;
  const bool eta = !rule.momentum || (tokens.eta.defined() && tokens.eta.shape() == gate);
  const bool alpha = rule.forgetting == Forgetting::kNever ||
                     (tokens.alpha.defined() && tokens.alpha.shape() == gate);
  Require(tokens.theta.shape() == gate && eta && alpha,
          "memory_scan: gates must have shape {} where the rule has them", gate);
  Require(static_cast<int>(state.w.w.size()) == rule.depth &&
              state.s.w.size() == (rule.momentum ? state.w.w.size() : 0u) &&
              state.open.count < rule.chunk,
          "memory_scan: the state does not fit the rule");
  const DType wide = WideType(tokens.q.dtype());
  Require(tokens.theta.dtype() == wide && state.w.w[0].dtype() == wide,
          "memory_scan: gates and state are {} and {}, for rows of {}", Name(tokens.theta.dtype()),
          Name(state.w.w[0].dtype()), Name(tokens.q.dtype()));
  if (!resets.defined()) return;
  const int64_t open = state.open.count > 0 ? 1 : 0;
  const int64_t begun = (state.open.count + shape[2] + rule.chunk - 1) / rule.chunk - open;
  Require(resets.rank() == 2 && resets.dim(0) == shape[0] && resets.dim(1) == begun,
          "memory_scan: resets of shape {}, {} chunks begin", resets.shape(), begun);
}

}  // namespace

FusedOp<MemoryScanAttributes>& MemoryScanOp() {
  static FusedOp<MemoryScanAttributes> op("memory_scan", &Compose);
  return op;
}

MemoryScanResult MemoryScan(const MemoryRule& rule, const MemoryParameters& parameters,
                            const MemoryTokens& tokens, const MemoryState& state,
                            const Tensor& resets) {
  CheckShapes(rule, tokens, state, resets);
  MemoryScanInputs inputs{tokens, parameters, state};
  MemoryScanResult result;
  result.state.open.count = (state.open.count + tokens.q.dim(2)) % rule.chunk;
  Unflatten(rule, MemoryScanOp()(Flatten(rule, inputs), {rule, state.open.count, resets}), result);
  return result;
}

}  // namespace mnemo
