// Scaled dot-product attention through cuDNN: one launch, no merging of parts (attention.h).
//
// bf16 inputs and outputs, sums in f32. Graphs are built at a shape's first call and kept; which
// algorithm one takes is cuDNN's heuristic for the shape, never a timing.
#pragma once

#include <cudnn.h>

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>

#include "src/core/cuda/kernels.h"

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

// stats [B, H, T] f32, contiguous: log of the sum of exp(score) over the visible keys.
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

// The graphs of one GPU. Not thread-safe. Calls throw TensorError with cuDNN's message, the shape
// and the versions if cuDNN refuses.
class SdpaGraphs {
 public:
  SdpaGraphs();
  ~SdpaGraphs();
  SdpaGraphs(const SdpaGraphs&) = delete;

  void Forward(const Launch& launch, const SdpaShape& shape, const SdpaForwardCall& call);
  void Backward(const Launch& launch, const SdpaShape& shape, const SdpaBackwardCall& call);

  // What the deterministic backward pass holds beside its inputs grows with queries * keys.
  static int64_t DeterministicWorkspace(const SdpaShape& shape) {
    return 2 * shape.batch * shape.heads * shape.queries * shape.keys;
  }

 private:
  struct Graph;
  Graph& Find(const SdpaShape& shape, bool backward);

  cudnnHandle_t handle_ = nullptr;
  std::map<std::pair<bool, SdpaShape>, std::unique_ptr<Graph>> graphs_;
};

}  // namespace mnemo::cuda
