// Row-wise work on a warpgroup's [token, f] products, and copies of token rows.
#pragma once

#include "src/core/cuda/memory/memory_tile.cuh"

namespace mnemo::memory {

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Replaces x by its normalised rows.
__device__ inline void normalize(Acc& x, float epsilon, float (&r)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = 0, square = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += x[4 * j + 2 * i] + x[4 * j + 2 * i + 1];
    const float mean = quad_sum(sum) * (1.0f / kTile);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& value = x[4 * j + 2 * i + e];
        value -= mean;
        square = fmaf(value, value, square);
      }
    }
    r[i] = rsqrtf(quad_sum(square) * (1.0f / kTile) + epsilon);
#pragma unroll
    for (int j = 0; j < 8; ++j) x[4 * j + 2 * i] *= r[i], x[4 * j + 2 * i + 1] *= r[i];
  }
}

// y -> r (y - mean(y) - xhat mean(y xhat)), row by row.
__device__ inline void project(Acc& y, const Acc& xhat, const float (&r)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float m1 = 0, m2 = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int at = 4 * j + 2 * i + e;
        m1 += y[at];
        m2 = fmaf(y[at], xhat[at], m2);
      }
    }
    m1 = quad_sum(m1) * (1.0f / kTile);
    m2 = quad_sum(m2) * (1.0f / kTile);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int at = 4 * j + 2 * i + e;
        y[at] = r[i] * (y[at] - m1 - xhat[at] * m2);
      }
    }
  }
}

// A product in global memory in fp32, in register order; two tiles.
__device__ inline void store_floats(bf16* to, const Acc& x) {
  float4* p = reinterpret_cast<float4*>(to) + (threadIdx.x & 127);
#pragma unroll
  for (int j = 0; j < 8; ++j)
    p[128 * j] = make_float4(x[4 * j], x[4 * j + 1], x[4 * j + 2], x[4 * j + 3]);
}
__device__ inline void load_floats(Acc& x, const bf16* from) {
  const float4* p = reinterpret_cast<const float4*>(from) + (threadIdx.x & 127);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4 v = p[128 * j];
    x[4 * j] = v.x, x[4 * j + 1] = v.y, x[4 * j + 2] = v.z, x[4 * j + 3] = v.w;
  }
}

// scale[i] times row i of a thread's two.
__device__ inline void scale_rows(Frag& out, const Frag& x, const float (&scale)[2]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(x[i]);
    out[i] = pack(scale[i & 1] * v.x, scale[i & 1] * v.y);
  }
}

// Element pair (row, col) of a swizzled tile.
__device__ inline float2 tile_pair(const bf16* tile, int row, int col) {
  return unpack(*reinterpret_cast<const uint32_t*>(reinterpret_cast<const char*>(tile) +
                                                   swizzle_offset(row, col)));
}

// Writes the first `count` rows of a tile to token rows; 128 threads.
__device__ inline void write_rows(bf16* to, int64_t stride, const bf16* tile, int count,
                                  int thread) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = (thread >> 3) + 16 * i, col = 8 * (thread & 7);
    if (row < count) {
      *reinterpret_cast<uint4*>(to + row * stride + col) = *reinterpret_cast<const uint4*>(
          reinterpret_cast<const char*>(tile) + swizzle_offset(row, col));
    }
  }
}

// Column sums of x over the tile's rows into 64 floats per warp of `parts`.
__device__ inline void column_sums(const Acc& x, float* parts) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float sum = x[4 * j + e] + x[4 * j + 2 + e];
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
      if (lane < 4) parts[warp * kTile + 8 * j + 2 * lane + e] = sum;
    }
  }
}

// x += scale by rows times values by columns.
__device__ inline void add_columns(Acc& x, const float (&scale)[2], const float* values) {
  const int col = 2 * (threadIdx.x & 3);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 v = *reinterpret_cast<const float2*>(values + 8 * j + col);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      x[4 * j + 2 * i] = fmaf(scale[i], v.x, x[4 * j + 2 * i]);
      x[4 * j + 2 * i + 1] = fmaf(scale[i], v.y, x[4 * j + 2 * i + 1]);
    }
  }
}

// Column sums of x, its rows scaled, by warp into `parts` [4][64].
__device__ inline void scaled_column_sums(const Acc& x, const float (&scale)[2], float* parts) {
  Acc y;
#pragma unroll
  for (int i = 0; i < 32; ++i) y[i] = scale[(i >> 1) & 1] * x[i];
  column_sums(y, parts);
}

__device__ inline float sum_warps(const float* parts) {
  return parts[0] + parts[kTile] + parts[2 * kTile] + parts[3 * kTile];
}

}  // namespace mnemo::memory
