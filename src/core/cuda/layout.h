// How per-head tensors lie in memory: [B, H, n, f] on memory that is [B, n, H, f], as projections
// leave them, so that splitting and merging heads are views.
#pragma once

#include "src/core/tensor.h"

namespace mnemo::cuda {

// Uninitialised.
inline Tensor EmptyPerHead(int64_t batch, int64_t heads, int64_t rows, int64_t head_dim,
                           DType dtype, Device device) {
  const int order[] = {0, 2, 1, 3};
  return Tensor::Empty({batch, rows, heads, head_dim}, dtype, device).Permute(order);
}

// Whether x [B, H, n, f] lies like this with dense rows of heads, and its strides and address allow
// 16-byte accesses of bf16.
inline bool IsPerHead(const Tensor& x) {
  const bool dense =
      (x.strides()[3] == 1 || x.dim(3) == 1) && (x.strides()[1] == x.dim(3) || x.dim(1) == 1);
  return dense && x.strides()[0] % 8 == 0 && x.strides()[2] % 8 == 0 &&
         reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0;
}

}  // namespace mnemo::cuda
