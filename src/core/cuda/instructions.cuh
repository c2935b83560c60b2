// Instructions that CUDA C++ has no names for. tests/simt has the same functions for a CPU, to run
// kernels without a GPU; a change here is one there.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace mnemo::cuda {

// 2^x and 1 / x, to 2^-22 and 1 unit in the last place; what is below the normal numbers is 0.
__device__ __forceinline__ float QuickExp2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
__device__ __forceinline__ float QuickReciprocal(float x) {
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
  return reciprocal;
}

// Starts to copy 16 bytes from global to shared memory, or zeros if they are not `there`.
__device__ __forceinline__ void CopyAsync16(uint4* to, const uint4* from, bool there) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}
// Copies of this thread since the last commit are one batch; the wait is for all but its last
// kPending batches.
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace mnemo::cuda
