// Reference of the memory rule: one sequence, one head, token by token.
//
// Network:  h_0 = x;  h_i = act(W_i h_{i-1} + c_i), i < n;  o = W_n h_{n-1} + c_n;
//           f_W(x) = [x +] [LN_{g,e}(o)].           W_i is [out, in], c_i is [out, 1].
// For token t of the chunk that began with (W_c, S_c):
//   u_t = grad_W 1/2 |f_W(k_t) - v_t|^2 at W_c,  then the clamp  u_t /= sqrt(1 + (|u_t| / c)^2)
//   S_t = eta_t S_{t-1} - theta_t u_t
//   W_t = (1 - alpha_t) W_{t-1} + S_t  [+ alpha_t W_0 with Forgetting::kInitial]
//   y_t = f_{W_t}(q_t)
// Row scale: what the chunk wrote into W_t enters times r_t = max(0, 1/t + learned_t), t from 1 in
// the chunk; the next chunk starts from the last row so scaled. S is never scaled.
#pragma once

#include <vector>

#include "tests/reference/reference_matrix.h"

namespace mnemo::reference {

enum class Activation { kSilu, kGelu };  // GELU is the tanh form
enum class Forgetting { kOff, kZero, kInitial };

struct MemoryRule {
  int chunk = 16;
  Activation activation = Activation::kGelu;
  bool residual = true;
  bool layer_norm = true;
  bool momentum = true;  // off: eta counts as 0, and the S that is returned is 0
  Forgetting forgetting = Forgetting::kZero;  // kOff: alpha counts as 0
  double clamp = 0;                           // c; 0: no clamp
  double epsilon = 1e-6;                      // of the layer norm
};

// Everything of the shape of the network's weights: W, S, u.
struct MemoryWeights {
  std::vector<Matrix> w;  // depth matrices [out, in]; the depth is their number
  std::vector<Matrix> c;  // depth columns [out, 1], or empty: no biases
};

// The learned parameters of one head.
struct MemoryHead {
  MemoryWeights initial;  // W_0
  Vector ln_gain;         // g [f]; unused without layer_norm
  Vector ln_bias;         // e [f]; unused without layer_norm
  Vector row_scale;       // learned_t [chunk]; empty: no row scale
};

struct MemoryInputs {
  Matrix q, k, v;            // [T, f]
  Vector theta, eta, alpha;  // [T]; eta, alpha may be empty where the rule switches them off
};

struct MemoryState {
  MemoryWeights w, s;
};

struct MemoryOutput {
  Matrix y;            // [T, f]
  MemoryState last;    // W_T, S_T
  int clamp_hits = 0;  // tokens with |u_t| > c
};

// f_W(x).
Vector MemoryRead(const MemoryRule& rule, const MemoryHead& head, const MemoryWeights& weights,
                  const Vector& x);

// grad_W 1/2 |f_W(k) - v|^2, before the clamp.
MemoryWeights InnerGradient(const MemoryRule& rule, const MemoryHead& head,
                            const MemoryWeights& weights, const Vector& k, const Vector& v);

// W = W_0 and S = 0.
MemoryState FirstState(const MemoryHead& head);

// Runs T tokens from `start` (null: FirstState), at the beginning of a chunk. Where resets[j] is
// true, chunk j begins with FirstState; `resets` is empty or has one flag for each chunk.
MemoryOutput RunMemory(const MemoryRule& rule, const MemoryHead& head, const MemoryInputs& inputs,
                       const MemoryState* start = nullptr, const std::vector<bool>& resets = {});

}  // namespace mnemo::reference
