// Options and weights of one block, as plain structs. d: model width, H: heads, f = d / H,
// m: MLP width. Every matrix is [out, in]. A block reads only the weights that its equations name.
#pragma once

#include <vector>

#include "tests/reference/reference_memory.h"

namespace mnemo::reference {

enum class BlockKind { kLmm, kMac, kMag, kMal, kTransformer };

struct BlockOptions {
  BlockKind kind = BlockKind::kLmm;
  int heads = 1;

  // Memory.
  MemoryRule rule;
  double theta_max = 1;
  double eta_max = 1;
  double alpha_max = 1;
  bool ema = true;                // theta *= (1 - eta); eta counts as 0 without momentum
  bool qk_l2_norm = true;         // of the memory's q and k
  bool gelu_output_gate = false;  // GELU(x W_g) instead of SiLU (LMM, MAL)

  // Attention.
  int segment = 0;  // MAC; a multiple of the chunk
  int window = 0;   // MAG, MAL, TRANSFORMER: tokens that a query sees, itself included; 0: all
  double rope_base = 10000;

  double epsilon = 1e-6;  // of RMSNorm and L2 norm; the rule has its own for the layer norm
};

struct BlockWeights {
  Vector mixer_norm;  // [d]
  Matrix wo;          // [d, d]

  // Memory: projections, gates and the learned parameters of each head.
  Matrix wq, wk, wv;                        // [d, d]; wk empty: shared with wq
  Matrix conv_q, conv_k, conv_v;            // [d, 4]; column 3 multiplies the current token
  Matrix w_theta, w_eta, w_alpha;           // [H, d]
  Vector theta_bias, eta_bias, alpha_bias;  // [H]
  std::vector<MemoryHead> memory;           // [H]
  Vector read_norm;                         // [d], viewed [H, f]: the norm of y
  Matrix wg;                                // [d, d] LMM, MAL: output gate
  Matrix wr;                                // [d, d] MAC: query of the segment's read
  Matrix wm;                                // [d, d] MAL: after the memory

  // Attention.
  Matrix aq, ak, av;  // [d, d]
  Matrix persistent;  // [Np, d]; may be empty
  Vector attn_norm;   // [d], viewed [H, f]: MAG, the norm of a

  // MLP.
  Vector mlp_norm;      // [d]
  Matrix w_gate, w_up;  // [m, d]
  Matrix w_down;        // [d, m]
};

}  // namespace mnemo::reference
