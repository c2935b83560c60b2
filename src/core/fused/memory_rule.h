// The neural memory's rule: options, slow parameters, state. Equations in docs/model.md.
//
// Per head, with memory network f_W(x) = [x +] [LN_{g,e}](W_n act(.. act(W_1 x + c_1)) + c_n):
//   u_t = grad_W 1/2 |f_W(k_t) - v_t|^2 at the chunk's first state
//   S_t = eta_t S_{t-1} - theta_t u_t
//   W_t = (1 - alpha_t) W_{t-1} [+ alpha_t W_0] + S_t
//   y_t = f_{W_t}(q_t)
//
// B sequences, H heads, T tokens, f head dim, m hidden width, b chunk. Layer i of the network maps
// in_i to out_i features: f -> m -> .. -> m -> f, or f -> f at depth 1.
#pragma once

#include <vector>

#include "src/core/tape.h"

namespace mnemo {

enum class MemoryActivation { kSilu, kGelu };
enum class Forgetting { kNever, kTowardsZero, kTowardsInitial };

struct MemoryRule {
  int depth = 2;
  int64_t head_dim = 64;
  int64_t hidden = 256;  // unused at depth 1
  int64_t chunk = 64;
  MemoryActivation activation = MemoryActivation::kSilu;
  bool residual = true;
  bool layer_norm = true;
  bool biases = false;
  bool momentum = true;  // false: S_t = -theta_t u_t, no S in the carry
  Forgetting forgetting = Forgetting::kTowardsZero;
  double clamp = 0;        // > 0: u_t *= 1 / sqrt(1 + (|u_t| / clamp)^2)
  bool row_scale = false;  // r_t = max(0, 1 / t + learned_t) scales the t-th row of G
  double epsilon = 1e-6;   // of the layer norm

  int64_t in_dim(int layer) const { return layer == 0 ? head_dim : hidden; }
  int64_t out_dim(int layer) const { return layer + 1 == depth ? head_dim : hidden; }
};

// One set of the network's weights, or anything of their shape (momentum, adjoint).
struct MemoryWeights {
  std::vector<Var> w;  // depth x [.., H, out, in]
  std::vector<Var> c;  // depth x [.., H, 1, out]; empty without biases
};

// What is learned by the outer optimizer.
struct MemoryParameters {
  MemoryWeights initial;       // W_0: [H, out, in], [H, 1, out]
  Var norm_weight, norm_bias;  // [H, 1, f]; undefined without layer norm
  Var row_scale;               // [b, 1]; undefined without row_scale
};

// The tokens of a chunk that has begun and not ended: its first state is the MemoryState's w and s.
struct OpenChunk {
  int64_t count = 0;        // tokens, < b
  std::vector<Var> inputs;  // depth x [B, H, count, in]: key-side inputs of each layer
  std::vector<Var> deltas;  // depth x [B, H, count, out]
  Var theta, eta, alpha;    // [B, H, count, 1]; eta, alpha undefined where the rule has none
};

// The memory's part of a carry.
struct MemoryState {
  MemoryWeights w;  // [B, H, out, in], [B, H, 1, out]
  MemoryWeights s;  // the same; empty without momentum
  OpenChunk open;
};

// Calls f(Var&) on every Var that the rule and the open chunk's count say is there, in one fixed
// order: how structures become lists of Vars and back.
template <typename F>
void ForEachVar(const MemoryRule& rule, MemoryWeights& weights, F&& f) {
  weights.w.resize(rule.depth);
  weights.c.resize(rule.biases ? rule.depth : 0);
  for (Var& w : weights.w) f(w);
  for (Var& c : weights.c) f(c);
}

template <typename F>
void ForEachVar(const MemoryRule& rule, MemoryParameters& parameters, F&& f) {
  ForEachVar(rule, parameters.initial, f);
  if (rule.layer_norm) {
    f(parameters.norm_weight);
    f(parameters.norm_bias);
  }
  if (rule.row_scale) f(parameters.row_scale);
}

template <typename F>
void ForEachVar(const MemoryRule& rule, OpenChunk& open, F&& f) {
  if (open.count == 0) return;
  open.inputs.resize(rule.depth);
  open.deltas.resize(rule.depth);
  for (Var& x : open.inputs) f(x);
  for (Var& x : open.deltas) f(x);
  f(open.theta);
  if (rule.momentum) f(open.eta);
  if (rule.forgetting != Forgetting::kNever) f(open.alpha);
}

template <typename F>
void ForEachVar(const MemoryRule& rule, MemoryState& state, F&& f) {
  ForEachVar(rule, state.w, f);
  if (rule.momentum) ForEachVar(rule, state.s, f);
  ForEachVar(rule, state.open, f);
}

// The state at the start of a sequence: W_0 for each of `batch` sequences, S = 0.
MemoryState InitialMemoryState(const MemoryRule& rule, const MemoryParameters& parameters,
                               int64_t batch);

// Puts W to W_0 and S to 0 for each sequence whose flag (0 or 1; flags [B, 1]) is set.
void ResetMemoryState(const MemoryRule& rule, const MemoryParameters& parameters,
                      const Tensor& flags, MemoryState& state);

// f_W(x) for x [B, H, n, f] with weights [B, H, ..].
Var MemoryNetwork(const MemoryRule& rule, const MemoryParameters& parameters,
                  const MemoryWeights& weights, const Var& x);

// One forward and one backward pass of f_W over keys and values [B, H, n, f]: what the gradients
// u_t^(i) = deltas_i,t (inputs_i,t)^T consist of, clamped if the rule says so.
struct InnerGradient {
  std::vector<Var> inputs;  // depth x [B, H, n, in]
  std::vector<Var> deltas;  // depth x [B, H, n, out]
  Tensor squared_norm;      // [B, H, n, 1], before the clamp; undefined without clamp
};
InnerGradient MemoryGradient(const MemoryRule& rule, const MemoryParameters& parameters,
                             const MemoryWeights& weights, const Var& keys, const Var& values);

// Layer norm over the last dim with weight g and bias e, and the gradient through it.
struct LayerNormResult {
  Var y, normalized, inverse_deviation;
};
LayerNormResult LayerNorm(const Var& x, const Var& g, const Var& e, double epsilon);
Var LayerNormGradient(const LayerNormResult& forward, const Var& g, const Var& dy);

}  // namespace mnemo
