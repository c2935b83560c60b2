// What attention asks of a GPU: calls of cuDNN and of the kernel that merges parts. An interface,
// so that attention.cc also runs where calls are only counted, and in tests without a GPU.
#pragma once

#include <array>
#include <compare>
#include <cstdint>

#include "src/core/cuda/attention_merge.h"
#include "src/core/tensor.h"

namespace mnemo::cuda {

// Strides in elements of the axes sequence, head and token; features lie one after the other.
using SdpaStrides = std::array<int64_t, 3>;

struct SdpaShape {
  int64_t batch = 0, heads = 0, queries = 0, keys = 0, head_dim = 0;
  // True: query i sees the keys up to keys - queries + i, and of these the last `window` if that is
  // not 0 (queries <= keys). False: it sees all.
  bool causal = false;
  int64_t window = 0;
  bool deterministic = true;  // of the backward pass
  SdpaStrides q{}, k{}, v{}, o{};
  SdpaStrides grad_o{}, grad_q{}, grad_k{}, grad_v{};  // zeros in the forward pass

  auto operator<=>(const SdpaShape&) const = default;
};

// stats [B, H, T] f32, contiguous: log of the sum of exp(score) over the visible keys. Sequences of
// k and v may overlap.
struct SdpaForwardCall {
  const void *q, *k, *v;
  void* o;
  float* stats;
};
// o and stats may be those of a merge of several parts: the gradients are then of this part.
struct SdpaBackwardCall {
  const void *q, *k, *v, *o, *grad_o;
  const float* stats;
  void *grad_q, *grad_k, *grad_v;
};

// What cuDNN's backward pass takes beside its inputs, as seen with 9.14 and 9.19 on Hopper: sums
// over rows, and the gradient of q in f32 or, where sums have a fixed order, the gradients of all
// scores of whole tiles in bf16. Some 300 bytes more are not counted.
constexpr int64_t SdpaScoreBytes(int64_t queries, int64_t keys) {
  constexpr int64_t kTile = 128;
  return 2 * ((queries + kTile - 1) / kTile * kTile) * ((keys + kTile - 1) / kTile * kTile);
}
constexpr int64_t SdpaBackwardWorkspace(const SdpaShape& s) {
  const int64_t large =
      s.deterministic ? SdpaScoreBytes(s.queries, s.keys) : 4 * s.queries * s.head_dim;
  return s.batch * s.heads * (4 * s.queries + large);
}

// Calls on the device of the tensors that the pointers belong to, each after those before it.
class AttentionCalls {
 public:
  virtual ~AttentionCalls() = default;
  virtual void Forward(Device device, const SdpaShape& shape, const SdpaForwardCall& call) = 0;
  virtual void Backward(Device device, const SdpaShape& shape, const SdpaBackwardCall& call) = 0;
  virtual void Merge(Device device, const MergeCall& call) = 0;
};

}  // namespace mnemo::cuda
