#include "src/core/fused/memory_rule.h"

#include "src/core/ops.h"

namespace mnemo {
namespace {

Var Activate(const MemoryRule& rule, const Var& z) {
  return rule.activation == MemoryActivation::kSilu ? Silu(z) : Gelu(z);
}

Var ActivationGradient(const MemoryRule& rule, const Var& z) {
  return rule.activation == MemoryActivation::kSilu ? SiluGrad(z) : GeluGrad(z);
}

Var Linear(const Var& x, const MemoryWeights& weights, int layer) {
  const Var z = MatMul(x, Transpose(weights.w[layer]));
  return weights.c.empty() ? z : Add(z, weights.c[layer]);
}

// Multiplies the deltas by 1 / sqrt(1 + (n_t / c)^2), where
// n_t^2 = sum_i |delta_i|^2 (|h_{i-1}|^2 + 1 with biases) is the squared norm of the token's
// gradient.
void Clamp(const MemoryRule& rule, InnerGradient& gradient) {
  Var squared;
  for (int i = 0; i < rule.depth; ++i) {
    const Var inputs = Sum(Square(gradient.inputs[i]), -1);
    const Var term =
        Mul(Sum(Square(gradient.deltas[i]), -1), rule.biases ? Affine(inputs, 1, 1) : inputs);
    squared = i == 0 ? term : Add(squared, term);
  }
  const Var factor = Rsqrt(Affine(squared, 1 / (rule.clamp * rule.clamp), 1));
  for (Var& delta : gradient.deltas) delta = Mul(delta, factor);
  gradient.squared_norm = squared.value();
}

}  // namespace

LayerNormResult LayerNorm(const Var& x, const Var& g, const Var& e, double epsilon) {
  const Var centered = Sub(x, Mean(x, -1));
  const Var r = Rsqrt(Affine(Mean(Square(centered), -1), 1, epsilon));
  const Var normalized = Mul(centered, r);
  return {Add(Mul(normalized, g), e), normalized, r};
}

Var LayerNormGradient(const LayerNormResult& forward, const Var& g, const Var& dy) {
  const Var scaled = Mul(dy, g);
  const Var along = Mul(forward.normalized, Mean(Mul(scaled, forward.normalized), -1));
  return Mul(Sub(Sub(scaled, Mean(scaled, -1)), along), forward.inverse_deviation);
}

MemoryState InitialMemoryState(const MemoryRule& rule, const MemoryParameters& parameters,
                               int64_t batch) {
  MemoryState state;
  const auto spread = [batch](const Var& x) {
    Shape shape = x.shape();
    shape.insert(shape.begin(), batch);
    return BroadcastTo(x, shape);
  };
  for (const Var& w : parameters.initial.w) state.w.w.push_back(spread(w));
  for (const Var& c : parameters.initial.c) state.w.c.push_back(spread(c));
  if (rule.momentum) {
    state.s = state.w;
    ForEachVar(rule, state.s,
               [](Var& x) { x = Var(Tensor::Zeros(x.shape(), x.dtype(), x.device())); });
  }
  return state;
}

void ResetMemoryState(const MemoryRule& rule, const MemoryParameters& parameters,
                      const Tensor& flags, MemoryState& state) {
  const Tensor mask = flags.Reshape({flags.dim(0), 1, 1, 1});
  MemoryState initial = InitialMemoryState(rule, parameters, flags.dim(0));
  const auto choose = [&mask](MemoryWeights& weights, const MemoryWeights& fresh) {
    for (size_t i = 0; i < weights.w.size(); ++i) {
      weights.w[i] = Where(mask, fresh.w[i], weights.w[i]);
    }
    for (size_t i = 0; i < weights.c.size(); ++i) {
      weights.c[i] = Where(mask, fresh.c[i], weights.c[i]);
    }
  };
  choose(state.w, initial.w);
  choose(state.s, initial.s);
}

Var MemoryNetwork(const MemoryRule& rule, const MemoryParameters& parameters,
                  const MemoryWeights& weights, const Var& x) {
  Var h = x;
  for (int i = 0; i < rule.depth; ++i) {
    h = Linear(h, weights, i);
    if (i + 1 < rule.depth) h = Activate(rule, h);
  }
  if (rule.layer_norm) {
    h = LayerNorm(h, parameters.norm_weight, parameters.norm_bias, rule.epsilon).y;
  }
  return rule.residual ? Add(h, x) : h;
}

InnerGradient MemoryGradient(const MemoryRule& rule, const MemoryParameters& parameters,
                             const MemoryWeights& weights, const Var& keys, const Var& values) {
  const int last = rule.depth - 1;
  InnerGradient result;
  result.deltas.resize(rule.depth);
  std::vector<Var> z(rule.depth);
  Var h = keys;
  for (int i = 0; i < rule.depth; ++i) {
    result.inputs.push_back(h);
    z[i] = Linear(h, weights, i);
    if (i < last) h = Activate(rule, z[i]);
  }
  const auto residual = [&](const Var& y) { return rule.residual ? Add(y, keys) : y; };
  if (rule.layer_norm) {
    const LayerNormResult norm =
        LayerNorm(z[last], parameters.norm_weight, parameters.norm_bias, rule.epsilon);
    result.deltas[last] =
        LayerNormGradient(norm, parameters.norm_weight, Sub(residual(norm.y), values));
  } else {
    result.deltas[last] = Sub(residual(z[last]), values);
  }
  for (int i = last - 1; i >= 0; --i) {
    result.deltas[i] =
        Mul(MatMul(result.deltas[i + 1], weights.w[i + 1]), ActivationGradient(rule, z[i]));
  }
  if (rule.clamp > 0) Clamp(rule, result);
  return result;
}

}  // namespace mnemo
