// Vectors of 8 features in registers, and sums over groups of lanes.
#pragma once

#include "src/core/cuda/instructions.cuh"
#include "src/core/cuda/layer_kernels.h"
#include "src/core/cuda/numeric.cuh"

namespace mnemo::cuda {

struct Lane {
  float at[kLane];
};

// Features as they lie in memory.
template <typename T>
struct Raw {
  static constexpr int kWords = kLane * static_cast<int>(sizeof(T)) / 16;
  uint4 words[kWords];
};

template <typename T>
__device__ __forceinline__ Raw<T> LoadRaw(const T* from) {
  Raw<T> raw;
#pragma unroll
  for (int i = 0; i < Raw<T>::kWords; ++i) raw.words[i] = reinterpret_cast<const uint4*>(from)[i];
  return raw;
}

// A bf16 is the upper half of an f32.
__device__ __forceinline__ Lane Widen(const Raw<BFloat16>& raw) {
  const uint32_t words[] = {raw.words[0].x, raw.words[0].y, raw.words[0].z, raw.words[0].w};
  Lane lane;
#pragma unroll
  for (int i = 0; i < kLane / 2; ++i) {
    lane.at[2 * i] = __uint_as_float(words[i] << 16);
    lane.at[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return lane;
}

__device__ __forceinline__ Lane Widen(const Raw<float>& raw) {
  Lane lane;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    lane.at[4 * i] = __uint_as_float(raw.words[i].x);
    lane.at[4 * i + 1] = __uint_as_float(raw.words[i].y);
    lane.at[4 * i + 2] = __uint_as_float(raw.words[i].z);
    lane.at[4 * i + 3] = __uint_as_float(raw.words[i].w);
  }
  return lane;
}

// Has the compiler widen what is used before and after it twice, rather than keep it wide.
template <typename T>
__device__ __forceinline__ void StayRaw(Raw<T>* raw) {
#pragma unroll
  for (int i = 0; i < Raw<T>::kWords; ++i) {
    uint4& word = raw->words[i];
    asm volatile("" : "+r"(word.x), "+r"(word.y), "+r"(word.z), "+r"(word.w));
  }
}

template <typename T>
__device__ __forceinline__ Lane LoadLane(const T* from) {
  return Widen(LoadRaw(from));
}

__device__ __forceinline__ void StoreLane(float* to, const Lane& lane) {
  Pack<float, kLane> pack;
#pragma unroll
  for (int i = 0; i < kLane; ++i) pack.at[i] = lane.at[i];
  StorePack<kLane>(to, pack);
}

__device__ __forceinline__ void StoreLane(BFloat16* to, const Lane& lane) {
  Pack<__nv_bfloat162, kLane / 2> pairs;
#pragma unroll
  for (int i = 0; i < kLane / 2; ++i) {
    pairs.at[i] = __floats2bfloat162_rn(lane.at[2 * i], lane.at[2 * i + 1]);
  }
  uint4 word;
  memcpy(&word, &pairs, sizeof(word));
  *reinterpret_cast<uint4*>(to) = word;
}

__device__ __forceinline__ float Dot(const Lane& a, const Lane& b) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLane; ++i) sum = fmaf(a.at[i], b.at[i], sum);
  return sum;
}

// Sums over aligned groups of `lanes` threads (a power of two up to 32), given to all of them. All
// threads of the warp call it.
template <int kSums>
__device__ __forceinline__ void GroupSums(float (&x)[kSums], int lanes) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    if (step >= lanes) continue;
#pragma unroll
    for (int i = 0; i < kSums; ++i) x[i] += __shfl_xor_sync(~0u, x[i], step);
  }
}

__device__ __forceinline__ float GroupSum(float x, int lanes) {
  float sums[] = {x};
  GroupSums(sums, lanes);
  return sums[0];
}

// In a register of the warp rather than one of each thread, with all that follows from it.
__device__ __forceinline__ int WarpOfBlock() {
  return __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
}

__device__ __forceinline__ float Sigmoid(float x) { return 1 / (1 + expf(-x)); }

// With the exponential and reciprocal of the hardware, a fifth of the instructions: relative error
// below 2^-20 for |x| < 8, growing with |x| where the result goes to 0.
__device__ __forceinline__ float QuickSigmoid(float x) {
  return QuickReciprocal(1 + QuickExp2(x * -1.4426950408889634f));
}

// Calls f(T{}) with the type of rows: bf16 or f32.
template <typename F>
void DispatchRows(DType dtype, F&& f) {
  if (dtype == DType::kBF16) return f(BFloat16{});
  if (dtype == DType::kF32) return f(float{});
  MNEMO_CUDA(cudaErrorInvalidValue);
}

}  // namespace mnemo::cuda
