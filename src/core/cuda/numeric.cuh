// Element types on the GPU: conversions, packs of 16 bytes, and what kernels compute in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "src/core/cuda/check.h"
#include "src/core/cuda/kernels.h"
#include "src/core/cuda/strided.h"
#include "src/core/dtype.h"

namespace mnemo::cuda {

using BFloat16 = __nv_bfloat16;

// What values of T are computed in.
template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, BFloat16>, float, T>;

// To bf16 rounds to nearest, ties to even; to i32 rounds towards zero, saturates, and makes NaN
// zero.
template <typename To, typename From>
__device__ __forceinline__ To Convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (std::is_same_v<From, BFloat16>) {
    return Convert<To>(__bfloat162float(x));
  } else if constexpr (std::is_same_v<To, BFloat16> && std::is_same_v<From, float>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    // To f32 by rounding to odd, so that the second rounding sees whether anything was cut off.
    const double wide = x;
    const float cut = __double2float_rz(wide);
    const bool exact = static_cast<double>(cut) == wide;
    return __float2bfloat16_rn(exact ? cut : __int_as_float(__float_as_int(cut) | 1));
  } else if constexpr (std::is_same_v<To, int32_t>) {
    const double wide = x;
    if (wide != wide) return 0;
    if (wide >= 2147483647.0) return 2147483647;
    if (wide <= -2147483648.0) return -2147483647 - 1;
    return static_cast<int32_t>(wide);
  } else {
    return static_cast<To>(x);
  }
}

template <typename T>
__device__ __forceinline__ Compute<T> Value(T x) {
  return Convert<Compute<T>>(x);
}

// Elements of T in one 16-byte access.
template <typename T>
inline constexpr int kWidth = 16 / static_cast<int>(sizeof(T));

template <typename T, int V>
struct Pack {
  T at[V];
};

template <int Bytes>
struct WordOf;
template <>
struct WordOf<2> {
  using Type = uint16_t;
};
template <>
struct WordOf<4> {
  using Type = uint32_t;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<16> {
  using Type = uint4;
};

// `from` is aligned to AccessBytes(V, sizeof(T)).
template <int V, typename T>
__device__ __forceinline__ Pack<T, V> LoadPack(const T* from) {
  constexpr int kBytes = AccessBytes(V, sizeof(T));
  using Word = typename WordOf<kBytes>::Type;
  constexpr int kWords = V * static_cast<int>(sizeof(T)) / kBytes;
  Word words[kWords];
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = reinterpret_cast<const Word*>(from)[i];
  Pack<T, V> pack;
  memcpy(&pack, words, sizeof(pack));
  return pack;
}

template <int V, typename T>
__device__ __forceinline__ void StorePack(T* to, const Pack<T, V>& pack) {
  constexpr int kBytes = AccessBytes(V, sizeof(T));
  using Word = typename WordOf<kBytes>::Type;
  constexpr int kWords = V * static_cast<int>(sizeof(T)) / kBytes;
  Word words[kWords];
  memcpy(words, &pack, sizeof(pack));
#pragma unroll
  for (int i = 0; i < kWords; ++i) reinterpret_cast<Word*>(to)[i] = words[i];
}

// Calls f(T{}) with the type of a floating point dtype.
template <typename F>
void DispatchFloat(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32:
      return f(float{});
    case DType::kF64:
      return f(double{});
    case DType::kBF16:
      return f(BFloat16{});
    default:
      MNEMO_CUDA(cudaErrorInvalidValue);
  }
}

// Calls f(Word{}) with an unsigned integer of a dtype's size, for work that only moves values.
template <typename F>
void DispatchSize(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kBF16:
      return f(uint16_t{});
    case DType::kF32:
    case DType::kI32:
      return f(uint32_t{});
    case DType::kF64:
      return f(uint64_t{});
  }
  MNEMO_CUDA(cudaErrorInvalidValue);
}

template <typename T>
T* Data(const View& view) {
  return static_cast<T*>(view.data);  // T may be const
}

constexpr int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks for a kernel that loops over `items` with `per_block` of them at a time.
inline unsigned Blocks(const Launch& launch, int64_t items, int64_t per_block) {
  const int64_t wanted = CeilDivide(items, per_block), most = int64_t{16} * launch.multiprocessors;
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

}  // namespace mnemo::cuda
