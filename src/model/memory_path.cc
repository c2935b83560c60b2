#include "src/model/memory_path.h"

#include <algorithm>

#include "src/core/fused/gates.h"
#include "src/core/fused/layers.h"
#include "src/core/ops.h"
#include "src/model/tensor_split.h"

namespace mnemo {
namespace {

// The last rows of (before, x) along the token axis: what the next slice's convolution needs.
Var Tail(const Var& before, const Var& x) {
  const int64_t rows = before.dim(1);
  if (x.dim(1) >= rows) return Slice(x, 1, x.dim(1) - rows, x.dim(1));
  const Var parts[] = {Slice(before, 1, x.dim(1), rows), x};
  return Concat(parts, 1);
}

// How many rows of its document each of n rows may see, itself included; empty if no document
// begins late enough to matter.
std::vector<int64_t> Reach(const SliceContext& context, int64_t batch, int64_t offset,
                           int64_t rows) {
  if (context.starts.empty()) return {};
  std::vector<int64_t> reach(batch * rows);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < rows; ++t) {
      const int64_t row = offset + t;
      reach[b * rows + t] = context.position + row - context.starts[b * context.length + row] + 1;
    }
  }
  return reach;
}

// The reset flags of the chunks that begin in rows [offset, offset + rows) of the slice.
Tensor ResetsOf(const ModelSpec& spec, const SliceContext& context, int64_t offset, int64_t rows) {
  if (!context.resets.defined()) return {};
  const int64_t chunk = spec.rule.chunk, first = context.position + offset;
  const auto begun_before = [chunk](int64_t position) { return (position + chunk - 1) / chunk; };
  const int64_t base = begun_before(context.position);
  return context.resets.Slice(1, begun_before(first) - base, begun_before(first + rows) - base);
}

// Adds x to a sum that may not have begun.
void AddTo(Tensor& sum, const Var& x) {
  sum = sum.defined() ? Add(Var(sum), x).value() : x.value();
}

// Adds the mean of a gate, which may be undefined, times `weight`.
void AddMean(Tensor& sum, const Var& gate, int64_t weight) {
  if (!gate.defined()) return;
  const double scale = static_cast<double>(weight) / static_cast<double>(gate.value().elements());
  AddTo(sum, Scale(SumAll(gate.Detach()), scale));
}

void AddToProbe(const MemoryTokens& tokens, const Tensor& clamp_hits, BlockProbe& probe) {
  if (probe.memory_tokens) probe.memory_tokens(tokens);
  const int64_t rows = tokens.q.dim(2);
  AddMean(probe.theta, tokens.theta, rows);
  AddMean(probe.eta, tokens.eta, rows);
  AddMean(probe.alpha, tokens.alpha, rows);
  if (clamp_hits.defined()) AddTo(probe.clamp_hits, Var(clamp_hits));
}

}  // namespace

MemoryParameters MemoryParametersOf(const ModelSpec& spec, const UnitParameters& p) {
  MemoryParameters result;
  for (int i = 0; i < spec.rule.depth; ++i) {
    result.initial.w.push_back(p.Get("memory.initial.w" + std::to_string(i)));
    if (spec.rule.biases) result.initial.c.push_back(p.Get("memory.initial.c" + std::to_string(i)));
  }
  result.norm_weight = p.Get("memory.norm.weight");
  result.norm_bias = p.Get("memory.norm.bias");
  result.row_scale = IntoParts(spec, p.Get("memory.row_scale"));  // of all heads alike
  return result;
}

void BeginMemory(const ModelSpec& spec, const UnitParameters& p, const Var& x, Carry& carry) {
  carry.memory = InitialMemoryState(spec.rule, MemoryParametersOf(spec, p), x.dim(0));
  const int64_t rows = p.Get("memory.q_conv.weight").dim(1) - 1;
  const Var zeros(Tensor::Zeros({x.dim(0), rows, spec.own_width()}, x.dtype(), x.device()));
  carry.conv_q = carry.conv_k = carry.conv_v = zeros;
}

Gates ComputeGates(const ModelSpec& spec, const UnitParameters& p, const Var& rows) {
  const bool forgets = spec.rule.forgetting != Forgetting::kNever;
  std::vector<GateWeights> weights;
  const auto add = [&](const std::string& name, double maximum) {
    weights.push_back({p.Get(name + ".weight"), p.Get(name + ".bias"), maximum});
  };
  add("memory.theta", spec.gates.theta_max);
  if (spec.rule.momentum) add("memory.eta", spec.gates.eta_max);
  if (forgets) add("memory.alpha", spec.gates.alpha_max);
  const std::vector<Var> values = HeadGates(rows, weights);
  Gates gates;
  gates.theta = values[0];
  if (spec.rule.momentum) {
    gates.eta = values[1];
    if (spec.gates.average_surprise) gates.theta = Mul(gates.theta, Affine(gates.eta, -1, 1));
  }
  if (forgets) gates.alpha = values.back();
  return gates;
}

Var WriteAndRead(const ModelSpec& spec, const UnitParameters& p, const Var& x, int64_t offset,
                 const SliceContext& context, Carry& carry, BlockProbe* probe) {
  const int64_t rows = x.dim(1), heads = spec.own_heads();
  const int64_t normalized = spec.normalize_qk ? heads : 0;
  const std::vector<int64_t> reach = Reach(context, x.dim(0), offset, rows);
  const auto convolve = [&](const char* name, const Var& projected, Var& before, int64_t norms) {
    const std::string weight = std::string("memory.") + name + "_conv.weight";
    const Var y = ConvSiluNorm(before, projected, p.Get(weight), norms, spec.epsilon, reach);
    before = Tail(before, projected);
    return SplitHeads(y, heads);
  };
  const Var q = MatMul(x, Transpose(p.Get("memory.q.weight")));
  const Var k = spec.shared_qk_projection ? q : MatMul(x, Transpose(p.Get("memory.k.weight")));
  const Var v = MatMul(x, Transpose(p.Get("memory.v.weight")));
  const Gates gates = ComputeGates(spec, p, x);
  const MemoryTokens tokens{.q = convolve("q", q, carry.conv_q, normalized),
                            .k = convolve("k", k, carry.conv_k, normalized),
                            .v = convolve("v", v, carry.conv_v, 0),
                            .theta = gates.theta,
                            .eta = gates.eta,
                            .alpha = gates.alpha};
  MemoryScanResult result = MemoryScan(spec.rule, MemoryParametersOf(spec, p), tokens, carry.memory,
                                       ResetsOf(spec, context, offset, rows));
  carry.memory = std::move(result.state);
  if (probe != nullptr) AddToProbe(tokens, result.clamp_hits, *probe);
  return MergeHeads(result.y);
}

}  // namespace mnemo
