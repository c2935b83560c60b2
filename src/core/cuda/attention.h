// The fused op "attention" on a GPU: parts through cuDNN (sdpa.h), merged exactly.
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

#include "src/core/cuda/attention_calls.h"
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

// Blocks of a part's queries, one after the other, and the keys that they see: block i has the
// queries [query + i queries, query + (i + 1) queries), the last of the keys
// [key + i queries, key + i queries + keys), which end with the last query's own.
struct QueryBlocks {
  int64_t query, queries, blocks, key, keys;
  bool operator==(const QueryBlocks&) const = default;
};

// How the backward pass of a part is cut into calls: so many sequences and heads at a time, each in
// these blocks of queries. Several of them give to the same keys; sums of more than two are f32.
struct BackwardPlan {
  int64_t sequences, heads;
  std::vector<QueryBlocks> blocks;
  bool sums_in_f32 = false;
};

// In a fixed order cuDNN holds the gradients of all scores, seen or not, which is to stay within
// `limit` bytes: fewer sequences at a time, else heads of one sequence in pieces as even as can be,
// else queries of one head. A window is cut into blocks of its own size where what it hides would
// otherwise be computed and outweighs the cut: in a fixed order over many times the window, in any
// order only where keys come before the queries.
BackwardPlan PlanBackward(const Shape& q, const AttentionPart& part, bool deterministic,
                          int64_t limit);

// The fused op's kernel through `calls`, which has to live as long as it. `scores`: the limit of
// PlanBackward.
inline constexpr int64_t kAttentionScores = int64_t{2} << 30;
FusedOp<AttentionAttributes>::Kernel AttentionKernel(AttentionCalls& calls,
                                                     int64_t scores = kAttentionScores);

// Makes attention on GPUs run through cuDNN: bf16, head dim a multiple of 8 up to 128. Called again
// it sets another limit.
void RegisterAttention(int64_t scores = kAttentionScores);

}  // namespace mnemo::cuda
