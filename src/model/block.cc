#include "src/model/block.h"

#include "src/core/fused/layers.h"
#include "src/core/ops.h"
#include "src/core/peers.h"
#include "src/model/memory_path.h"
#include "src/model/mixers.h"
#include "src/model/tensor_split.h"

namespace mnemo {
namespace {

Var Mix(const MixerCall& call, const Var& x) {
  switch (call.spec.block) {
    case BlockKind::kLmm:
      return LmmMixer(call, x);
    case BlockKind::kMac:
      return MacMixer(call, x);
    case BlockKind::kMag:
      return MagMixer(call, x);
    case BlockKind::kMal:
      return MalMixer(call, x);
    case BlockKind::kTransformer:
      return TransformerMixer(call, x);
  }
  MNEMO_CHECK(false);
}

// x + rows weight^T, summed over the ranks that have parts of rows.
Var AddProjection(const ModelSpec& spec, const Var& x, const Var& rows, const Var& weight) {
  if (spec.split.ranks == 1) return AddMatMul(x, rows, Transpose(weight));
  return Add(x, SumOfParts(spec, MatMul(rows, Transpose(weight))));
}

// |W|^2 summed over all weights, mean over the sequences and this rank's heads: [1].
Var MeanSquaredState(const MemoryState& state) {
  Var squares;
  for (const Var& w : state.w.w) {
    const Var sum = SumAll(Square(w.Detach()));
    squares = squares.defined() ? Add(squares, sum) : sum;
  }
  const Var& first = state.w.w[0];
  return Scale(Reshape(squares, {1}), 1 / static_cast<double>(first.dim(0) * first.dim(1)));
}

// From sums over the rows run to means, over the heads of all ranks.
void FinishProbe(const ModelSpec& spec, const MemoryState& state, int64_t rows, BlockProbe& probe) {
  const Var squares = MeanSquaredState(state);
  const auto number = [&squares](const Tensor& sum, double scale) {
    return sum.defined() ? Scale(Reshape(Var(sum), {1}), scale)
                         : Var(Tensor::Zeros({1}, squares.dtype(), squares.device()));
  };
  const double mean = 1 / (static_cast<double>(rows) * spec.split.ranks);
  const Var parts[] = {number(probe.theta, mean), number(probe.eta, mean),
                       number(probe.alpha, mean), Scale(squares, 1.0 / spec.split.ranks),
                       number(probe.clamp_hits, 1)};
  Var all = Concat(parts, 0);
  if (spec.split.ranks > 1) all = SumOverPeers(all, *spec.split.peers);
  const Var norm[] = {Slice(all, 0, 0, 3), Sqrt(Slice(all, 0, 3, 4)),
                      Slice(all, 0, 4, kStatistics)};
  probe.numbers = Concat(norm, 0).value().To(DType::kF64);
}

}  // namespace

BlockResult RunBlock(const ModelSpec& spec, const UnitParameters& p, const Var& x,
                     const std::optional<Carry>& carry, const SliceContext& context,
                     BlockProbe* probe) {
  Require(x.rank() == 3 && x.dim(2) == spec.width && x.dim(1) == context.length,
          "block: rows of shape {} in a slice of {} tokens", x.shape(), context.length);
  BlockResult result;
  if (carry.has_value()) {
    result.carry = *carry;
  } else {
    Require(context.position == 0, "block: no carry at position {}", context.position);
    if (spec.has_memory()) BeginMemory(spec, p, x, result.carry);
  }
  const Var normalized = RmsNorm(x, p.Get("mixer_norm.weight"), 1, spec.epsilon);
  const Var heads = Mix({spec, p, context, result.carry, probe}, IntoParts(spec, normalized));
  const Var mixed = AddProjection(spec, x, heads, p.Get("output.weight"));
  const Var rows = IntoParts(spec, RmsNorm(mixed, p.Get("mlp_norm.weight"), 1, spec.epsilon));
  const Var hidden = SwiGlu(MatMul(rows, Transpose(p.Get("mlp.gate.weight"))),
                            MatMul(rows, Transpose(p.Get("mlp.up.weight"))));
  result.y = AddProjection(spec, mixed, hidden, p.Get("mlp.down.weight"));
  if (probe != nullptr && spec.has_memory()) {
    FinishProbe(spec, result.carry.memory, context.length, *probe);
  }
  return result;
}

}  // namespace mnemo
