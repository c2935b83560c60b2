// The kernel of the fused op "memory_scan" on Hopper GPUs: memory/memory_scan.h behind tensors.
#pragma once

#include <span>

#include "src/core/cuda/memory/memory_scan.h"
#include "src/core/fused/fused_ops.h"

namespace mnemo::cuda {

// Whether the kernels cover a call: bf16 tokens that begin with a chunk, a rule and shape that they
// know. Pure function of shapes, dtypes and attributes.
bool AcceptsMemoryScan(std::span<const Tensor> inputs, const MemoryScanAttributes& attributes);

// What the kernels are told of a call with queries q [B, H, T, f], resets aside.
MemoryScanShape MemoryScanShapeOf(const MemoryRule& rule, const Tensor& q);

// What a call saves for its backward pass: checkpoints or, where that follows at once, all that the
// kernels can retain (BackwardFollows, MemoryScanRetainedBytes). Uninitialised.
class MemoryScanSaved {
 public:
  static Tensor Empty(const MemoryScanShape& shape, Device device);
  explicit MemoryScanSaved(const Tensor& tensor) : tensor_(tensor) {}
  // One of the two; the other is null.
  float* checkpoints() const;
  void* retained() const;
  bool is_retained() const { return tensor_.dtype() == DType::kBF16; }

 private:
  const Tensor& tensor_;
};

void RegisterMemoryScan();

}  // namespace mnemo::cuda
