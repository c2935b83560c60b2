// The part of CUDA that the project uses, on tests/simt's stand-in for a GPU. Found in the place of
// CUDA's own header.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "tests/simt/machine.h"

#define __device__
#define __host__
#define __global__
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __cluster_dims__(...)

#define threadIdx (::mnemo::simt::ThreadIndex())
#define blockIdx (::mnemo::simt::BlockIndex())
#define blockDim (::mnemo::simt::BlockSize())
#define gridDim (::mnemo::simt::GridSize())

// ---- Vectors -----------------------------------------------------------------------------------

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

using dim3 = mnemo::simt::Dim;

// ---- Numbers -----------------------------------------------------------------------------------

inline float __uint_as_float(uint32_t x) {
  float y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline uint32_t __float_as_uint(float x) {
  uint32_t y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline int __float_as_int(float x) { return static_cast<int>(__float_as_uint(x)); }
inline float __int_as_float(int x) { return __uint_as_float(static_cast<uint32_t>(x)); }
inline float __expf(float x) { return std::exp(x); }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline float __double2float_rz(double x) {
  const auto y = static_cast<float>(x);
  return std::abs(static_cast<double>(y)) > std::abs(x) ? std::nextafter(y, 0.0f) : y;
}
using std::isfinite;
using std::isnan;
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }

template <typename A, typename B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  return b < a ? b : a;
}
template <typename A, typename B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  return a < b ? b : a;
}

template <typename T, typename U>
T atomicAdd(T* to, U x) {
  const T before = *to;
  *to += static_cast<T>(x);
  return before;
}

// ---- Warps and blocks --------------------------------------------------------------------------

inline void __syncthreads() { mnemo::simt::BlockBarrier(0, 0); }
inline void __syncwarp() { mnemo::simt::Exchange("syncwarp", 0); }

template <typename T>
T __shfl_xor_sync(uint32_t, T x, int mask) {
  const auto lanes = mnemo::simt::Exchange("shfl_xor", x);
  return lanes.template at<T>(mnemo::simt::Lane() ^ mask);
}
template <typename T>
T __shfl_sync(uint32_t, T x, int from) {
  return mnemo::simt::Exchange("shfl", x).template at<T>(from & 31);
}
template <typename T>
T __shfl_up_sync(uint32_t, T x, int by) {
  const auto lanes = mnemo::simt::Exchange("shfl_up", x);
  const int lane = mnemo::simt::Lane();
  return lanes.template at<T>(lane < by ? lane : lane - by);
}
template <typename T>
T __shfl_down_sync(uint32_t, T x, int by) {
  const auto lanes = mnemo::simt::Exchange("shfl_down", x);
  const int lane = mnemo::simt::Lane();
  return lanes.template at<T>(lane + by > 31 ? lane : lane + by);
}
inline uint32_t __ballot_sync(uint32_t, bool x) {
  const auto lanes = mnemo::simt::Exchange("ballot", x);
  uint32_t all = 0;
  for (int i = 0; i < 32; ++i) {
    if ((lanes.present() >> i & 1) != 0 && lanes.at<bool>(i)) all |= 1u << i;
  }
  return all;
}

// ---- The runtime: one device, one stream after another -----------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100
};
enum cudaMemcpyKind {
  cudaMemcpyDefault,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice
};
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
enum {
  cudaEventDisableTiming,
  cudaEventBlockingSync,
  cudaStreamNonBlocking,
  cudaHostAllocDefault,
  cudaHostAllocPortable
};
struct CUstream_st;
using cudaStream_t = CUstream_st*;
using cudaEvent_t = void*;
struct cudaDeviceProp {
  char name[16];
  int major, minor;
};
#define CUDART_VERSION 13000

inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline const char* cudaGetErrorName(cudaError_t) { return "cudaError"; }
inline cudaError_t cudaDriverGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
inline cudaError_t cudaRuntimeGetVersion(int* v) { return *v = CUDART_VERSION, cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  return *p = {"simt", 9, 0}, cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = mnemo::simt::kDeviceBytes;
  *free = *total - mnemo::simt::AllocatedBytes();
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
// Few, so that a grid of as many blocks as there are processors takes several turns.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = 5, cudaSuccess;
}
// Of the one device; null where its memory does not suffice.
template <typename T>
cudaError_t cudaMalloc(T** to, size_t bytes) {
  *to = static_cast<T*>(mnemo::simt::Allocate(bytes));
  return *to == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
inline cudaError_t cudaFree(void* p) { return mnemo::simt::Free(p), cudaSuccess; }
inline cudaError_t cudaHostAlloc(void** to, size_t bytes, unsigned) {
  return *to = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096), cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* p) { return std::free(p), cudaSuccess; }
inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}
inline cudaError_t cudaMemset(void* to, int byte, size_t bytes) {
  return std::memset(to, byte, bytes), cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t) {
  return cudaMemset(to, byte, bytes);
}
inline cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  return *lowest = *highest = 0, cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, int, int) {
  return *s = nullptr, cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, int = 0) { return cudaSuccess; }
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  return *e = nullptr, cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
