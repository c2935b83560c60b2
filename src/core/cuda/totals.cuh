// Totals of a reduction: how values enter, how threads' totals are merged, always in an order that
// the shape alone decides.
#pragma once

#include <cmath>

#include "src/core/cuda/numeric.cuh"

namespace mnemo::cuda {

// Knuth's two-sum keeps what each addition rounds away. Nothing is initialised, so that it can be
// in shared memory.
struct CompensatedSum {
  double sum, lost;

  __device__ __forceinline__ void Add(double value) {
    const double next = sum + value, shadow = next - sum;
    lost += (sum - (next - shadow)) + (value - shadow);
    sum = next;
  }
  // Infinite or NaN if the plain sum is; what was lost is then meaningless.
  __device__ __forceinline__ double Value() const { return isfinite(sum) ? sum + lost : sum; }
};

__device__ __forceinline__ float ShuffleXor(float x, int mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}
__device__ __forceinline__ double ShuffleXor(double x, int mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}
__device__ __forceinline__ CompensatedSum ShuffleXor(const CompensatedSum& x, int mask) {
  return {ShuffleXor(x.sum, mask), ShuffleXor(x.lost, mask)};
}

// A few values at a time are summed in the type they are computed in (Partial), and those sums in
// f64; of f64 values those are compensated.
template <typename T>
struct SumOf {
  using Partial = Compute<T>;
  using Total = double;
  static __device__ __forceinline__ Partial StartPartial() { return 0; }
  static __device__ __forceinline__ Total Start() { return 0; }
  static __device__ __forceinline__ void Step(Partial x, Partial* partial) { *partial += x; }
  static __device__ __forceinline__ void Flush(Partial partial, Total* total) { *total += partial; }
  static __device__ __forceinline__ void Merge(Total part, Total* total) { *total += part; }
  static __device__ __forceinline__ T Result(Total total) { return Convert<T>(total); }
};

template <>
struct SumOf<double> {
  using Partial = double;
  using Total = CompensatedSum;
  static __device__ __forceinline__ Partial StartPartial() { return 0; }
  static __device__ __forceinline__ Total Start() { return {0, 0}; }
  static __device__ __forceinline__ void Step(double x, double* partial) { *partial += x; }
  static __device__ __forceinline__ void Flush(double partial, Total* total) {
    total->Add(partial);
  }
  static __device__ __forceinline__ void Merge(const Total& part, Total* total) {
    total->Add(part.sum);
    total->lost += part.lost;
  }
  static __device__ __forceinline__ double Result(const Total& total) { return total.Value(); }
};

// NaN if any value is.
template <typename T>
struct MaximumOf {
  using Partial = Compute<T>;
  using Total = Compute<T>;
  static __device__ __forceinline__ Partial StartPartial() { return -INFINITY; }
  static __device__ __forceinline__ Total Start() { return -INFINITY; }
  static __device__ __forceinline__ void Step(Partial x, Partial* partial) {
    *partial = x > *partial || x != x ? x : *partial;
  }
  static __device__ __forceinline__ void Flush(Partial partial, Total* total) {
    Step(partial, total);
  }
  static __device__ __forceinline__ void Merge(Total part, Total* total) { Step(part, total); }
  static __device__ __forceinline__ T Result(Total total) { return Convert<T>(total); }
};

inline constexpr int kBlockThreads = 256;

// Merges the totals of groups of `group` neighbouring threads: a power of two up to 32, or all
// kBlockThreads of the block. Every thread of the block calls it; the first of a group gets the
// result.
template <typename Op>
__device__ __forceinline__ typename Op::Total MergeGroup(typename Op::Total total, int group) {
  using Total = typename Op::Total;
  for (int mask = (group < 32 ? group : 32) / 2; mask > 0; mask /= 2) {
    const Total other = ShuffleXor(total, mask);
    Op::Merge(other, &total);
  }
  if (group <= 32) return total;
  __shared__ Total warps[kBlockThreads / 32];
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = total;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < kBlockThreads / 32; ++i) Op::Merge(warps[i], &total);
  }
  __syncthreads();  // before the next call writes
  return total;
}

}  // namespace mnemo::cuda
