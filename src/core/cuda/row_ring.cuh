// Rows on their way from global memory while a thread still works on others: asynchronous copies
// into slots of shared memory that are the thread's own, so that no thread waits for another.
#pragma once

#include "src/core/cuda/layer_rows.cuh"

namespace mnemo::cuda {

template <typename T, int kSlots, int kThreads>
struct RowRing {
  uint4 words[kSlots][Raw<T>::kWords][kThreads];

  // Starts to copy 8 features into the slot, zeros if they are not `there`. What was in the slot
  // has been taken.
  __device__ __forceinline__ void Fetch(int slot, const T* from, bool there) {
#pragma unroll
    for (int i = 0; i < Raw<T>::kWords; ++i) {
      CopyAsync16(&words[slot][i][threadIdx.x], reinterpret_cast<const uint4*>(from) + i, there);
    }
  }

  // Of a copy that was waited for.
  __device__ __forceinline__ Raw<T> Take(int slot) const {
    Raw<T> raw;
#pragma unroll
    for (int i = 0; i < Raw<T>::kWords; ++i) raw.words[i] = words[slot][i][threadIdx.x];
    return raw;
  }
};

}  // namespace mnemo::cuda
