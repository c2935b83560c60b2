// The memory over a run of tokens, from state to state: the fused op "memory_scan".
//
// The chunk form: within a chunk all inner gradients are taken at its first state, so that the
// state after token t is a combination of that state and of outer products,
//   W_t = A_t W_c + B_t S_c - r_t sum_{s<=t} G_{t,s} u_s     S_t = E_t S_c - sum_{s<=t} P_{t,s} u_s
// and reads become matrix products over the chunk. Derivation and equations in docs/model.md.
#pragma once

#include "src/core/fused/memory_rule.h"

namespace mnemo {

// q, k, v may be bf16; gates, parameters and state are f32 then, and everything is computed in f32:
// a state that is a sum over millions of tokens must not lose what is small beside it.
struct MemoryTokens {
  Var q, k, v;            // [B, H, T, f]
  Var theta, eta, alpha;  // [B, H, T, 1]; eta, alpha undefined where the rule has none
};

struct MemoryScanResult {
  Var y;              // [B, H, T, f]: f_{W_t}(q_t), in q's dtype
  MemoryState state;  // after the last token; its open part holds an unfinished chunk
  // How many tokens (times heads) had |u| > clamp; undefined without clamp. A constant.
  Tensor clamp_hits;  // []
};

// Runs T >= 1 tokens from `state`, whose open chunk, if any, goes on. `resets`, if defined, is
// [B, C] with one flag (0 or 1, the state's dtype) for each chunk that begins in these tokens: the
// state is W_0, S = 0 before a chunk whose flag is set. Throws TensorError on shapes that do not
// fit.
MemoryScanResult MemoryScan(const MemoryRule& rule, const MemoryParameters& parameters,
                            const MemoryTokens& tokens, const MemoryState& state,
                            const Tensor& resets = {});

// The products of a chunk's gates over its first n tokens (t, s < n), for gates [B, H, n, 1]:
//   A_t = prod (1 - alpha), E_t = prod eta, B_t = (1 - alpha_t) B_{t-1} + E_t,
//   P_{t,s} = eta_t P_{t-1,s}, P_{s,s} = theta_s, G_{t,s} = (1 - alpha_t) G_{t-1,s} + P_{t,s}.
struct MemoryCoefficients {
  Var a;     // [B, H, n, 1]; undefined without forgetting (1)
  Var b, e;  // [B, H, n, 1]; undefined without momentum (0)
  Var g, p;  // [B, H, n, n], lower triangular
};
MemoryCoefficients ComputeCoefficients(const MemoryRule& rule, const Var& theta, const Var& eta,
                                       const Var& alpha);

}  // namespace mnemo
