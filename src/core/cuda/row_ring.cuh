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
      const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(&words[slot][i][threadIdx.x]));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                   "l"(reinterpret_cast<const uint4*>(from) + i), "r"(there ? 16 : 0)
                   : "memory");
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

// Copies since the last commit are one batch; the wait is for all but the last kPending batches of
// this thread.
__device__ __forceinline__ void CommitFetches() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WaitForFetches() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace mnemo::cuda
