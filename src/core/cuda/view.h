// Tensors as kernels see them: plain values that can be passed to a GPU.
#pragma once

#include <cstdint>

#include "src/core/dtype.h"

namespace mnemo::cuda {

inline constexpr int kMaxRank = 8;

// Strided memory of a device. Strides count elements; 0 repeats.
struct View {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t strides[kMaxRank] = {};

  int64_t elements() const {
    int64_t count = 1;
    for (int i = 0; i < rank; ++i) count *= shape[i];
    return count;
  }
};

}  // namespace mnemo::cuda
