// Merging parts of one softmax: attention.h has the equations. Plain C++.
#pragma once

#include <cstdint>

namespace mnemo::cuda {

struct Launch;

inline constexpr int kMaxAttentionParts = 4;

// Outputs o_i [B, T, H, f] bf16 and stats s_i [B, H, T] f32, all contiguous, of parts 0 .. count-1;
// merged into o, which may be that of a part, and stats, which may not. f is a multiple of 8.
struct MergeCall {
  int count;
  const void* outputs[kMaxAttentionParts];
  const float* stats[kMaxAttentionParts];
  void* merged;
  float* merged_stats;
  int64_t batch, tokens, heads, head_dim;
};
void MergeAttention(const Launch& launch, const MergeCall& call);

}  // namespace mnemo::cuda
