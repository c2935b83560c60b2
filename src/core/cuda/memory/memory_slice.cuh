// The caller's fp32 weights of one hidden slice, in the registers of a warpgroup's [hidden, f]
// product.
#pragma once

#include "src/core/cuda/memory/memory_kernels.cuh"

namespace mnemo::memory {

// Offset of a thread's element i in [hidden, f] weights, or in second-layer ones [f, hidden].
__device__ inline int element_offset(int i, int slice, bool second) {
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
  const int hid = slice * kTile + 16 * warp + lane / 4 + 8 * ((i >> 1) & 1);
  const int f = 8 * (i >> 2) + 2 * (lane & 3) + (i & 1);
  return second ? f * (kSlices * kTile) + hid : hid * kTile + f;
}

// This sequence's slice of one layer of `slices`; zeros where the caller has no such weights.
__device__ inline void load_slice(Acc& x, const float* weights, int64_t sequence, int slice,
                                  bool second, int slices = kSlices) {
  const float* from = weights + sequence * slices * kTileElements;
#pragma unroll
  for (int i = 0; i < 32; ++i)
    x[i] = weights == nullptr ? 0 : from[element_offset(i, slice, second)];
}

__device__ inline void store_slice(const Acc& x, float* weights, int64_t sequence, int slice,
                                   bool second, int slices = kSlices) {
  if (weights == nullptr) return;
  // Opaque, or the compiler computes these addresses early and keeps them.
  make_opaque(slice);
  float* to = weights + sequence * slices * kTileElements;
#pragma unroll
  for (int i = 0; i < 32; ++i) to[element_offset(i, slice, second)] = x[i];
}

}  // namespace mnemo::memory
