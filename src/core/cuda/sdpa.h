// Scaled dot-product attention through cuDNN: one launch, no merging of parts (attention.h).
//
// bf16 inputs and outputs, sums in f32. Graphs are built at a shape's first call and kept; which
// algorithm one takes is cuDNN's heuristic for the shape, never a timing.
#pragma once

#include <cudnn.h>

#include <map>
#include <memory>

#include "src/core/cuda/attention_calls.h"
#include "src/core/cuda/kernels.h"

namespace mnemo::cuda {

// The graphs of one GPU. Not thread-safe. Calls throw TensorError with cuDNN's message, the shape
// and the versions if cuDNN refuses.
class SdpaGraphs {
 public:
  SdpaGraphs();
  ~SdpaGraphs();
  SdpaGraphs(const SdpaGraphs&) = delete;

  void Forward(const Launch& launch, const SdpaShape& shape, const SdpaForwardCall& call);
  void Backward(const Launch& launch, const SdpaShape& shape, const SdpaBackwardCall& call);

 private:
  struct Graph;
  Graph& Find(const SdpaShape& shape, bool backward);

  cudnnHandle_t handle_ = nullptr;
  std::map<std::pair<bool, SdpaShape>, std::unique_ptr<Graph>> graphs_;
};

}  // namespace mnemo::cuda
