// Vectors of 8 features in registers, and sums over groups of lanes.
#pragma once

#include "src/core/cuda/layer_kernels.h"
#include "src/core/cuda/numeric.cuh"

namespace mnemo::cuda {

struct Lane {
  float at[kLane];
};

template <typename T>
__device__ __forceinline__ Lane LoadLane(const T* from) {
  const Pack<T, kLane> pack = LoadPack<kLane>(from);
  Lane lane;
#pragma unroll
  for (int i = 0; i < kLane; ++i) lane.at[i] = Value(pack.at[i]);
  return lane;
}

template <typename T>
__device__ __forceinline__ void StoreLane(T* to, const Lane& lane) {
  Pack<T, kLane> pack;
#pragma unroll
  for (int i = 0; i < kLane; ++i) pack.at[i] = Convert<T>(lane.at[i]);
  StorePack<kLane>(to, pack);
}

__device__ __forceinline__ float Dot(const Lane& a, const Lane& b) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLane; ++i) sum = fmaf(a.at[i], b.at[i], sum);
  return sum;
}

// Sum over aligned groups of `lanes` threads (a power of two up to 32), given to all of them. All
// threads of the warp call it.
__device__ __forceinline__ float GroupSum(float x, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

__device__ __forceinline__ float Sigmoid(float x) { return 1 / (1 + expf(-x)); }

// Calls f(T{}) with the type of rows: bf16 or f32.
template <typename F>
void DispatchRows(DType dtype, F&& f) {
  if (dtype == DType::kBF16) return f(BFloat16{});
  if (dtype == DType::kF32) return f(float{});
  MNEMO_CUDA(cudaErrorInvalidValue);
}

}  // namespace mnemo::cuda
