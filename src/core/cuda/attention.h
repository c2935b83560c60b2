// The kernel of the fused op "attention" on a GPU: parts through cuDNN (sdpa.h), merged exactly.
//
// Keys that follow one another (the window from the carry and the slice's own) are one part, as are
// the persistent keys, and each further run at the same positions (MAC's recalled h). A part gives
// o_i and the logarithm s_i of its sum of exponentials; merged,
//   s = log sum_i exp(s_i),   o = sum_i exp(s_i - s) o_i,
// and the gradient of part i is that of attention over its keys alone with o and s in the place of
// o_i and s_i.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "src/core/fused/fused_ops.h"

namespace mnemo::cuda {

struct AttentionPart {
  std::vector<size_t> keys;  // inputs that are keys, values beside them; one after the other
  int64_t rows = 0;          // keys of all of these together
  bool causal = true;        // the last key is the last query's own; false: all keys are seen
  int64_t window = 0;        // 0: no limit within these rows
};

// The parts of a call, or none if cuDNN cannot compute it: a document begins within reach of a
// later query, or a run does not end with the last query.
std::optional<std::vector<AttentionPart>> PlanAttention(std::span<const Tensor> inputs,
                                                        const AttentionAttributes& attributes);

// How much of q [B, H, T, f] the deterministic backward pass of a part with so many keys takes at a
// time, so that its workspace stays within `limit` bytes: sequences, else heads of one sequence, in
// pieces as even as can be, else queries of one head, a multiple of 128.
struct BackwardPiece {
  int64_t sequences, heads, queries;
  bool operator==(const BackwardPiece&) const = default;
};
BackwardPiece PieceOfBackward(const Shape& q, int64_t keys, int64_t limit);

// Makes attention on GPUs run through cuDNN: bf16, head dim a multiple of 8 up to 128.
void RegisterAttention();

}  // namespace mnemo::cuda
