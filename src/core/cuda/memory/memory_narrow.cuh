// Pieces of the kernels for chunks of sixteen tokens, where hidden units or features lie on the
// matrix instructions' M and tokens on N.
//
// A narrow tile is sixteen token rows of 64 bf16, swizzled like a tile (2 KiB, 1024-byte aligned).
// A warpgroup's [64, 16] product is eight registers a thread: element (16 warp + lane / 4 + 8 i,
// 8 j + 2 (lane % 4) + e) is x[4 j + 2 i + e].
#pragma once

#include "src/core/cuda/memory/memory_activation.cuh"
#include "src/core/cuda/memory/memory_gates.cuh"
#include "src/core/cuda/memory/memory_rows.cuh"

namespace mnemo::memory {

inline constexpr int kRowStride = 68;  // floats a token in fp32 sums

using PerToken = float[4];                // of the tokens of a thread's elements, [2 j + e]
using Sums = float[kNarrow][kRowStride];  // [token, f]

struct NarrowPlace {  // of this thread's elements in a product
  int row, token;
  __device__ NarrowPlace()
      : row(16 * ((threadIdx.x >> 5) & 3) + (threadIdx.x & 31) / 4), token(2 * (threadIdx.x & 3)) {}
};

__device__ inline void load_per_token(PerToken& s, const float* values) {
  const float2 low = *reinterpret_cast<const float2*>(values + 2 * (threadIdx.x & 3));
  const float2 high = *reinterpret_cast<const float2*>(values + 8 + 2 * (threadIdx.x & 3));
  s[0] = low.x, s[1] = low.y, s[2] = high.x, s[3] = high.y;
}

__device__ inline void to_columns(Columns& c, const Part& x) {
#pragma unroll
  for (int i = 0; i < 4; ++i) c[i] = pack(x[2 * i], x[2 * i + 1]);
}

__device__ inline void to_columns(Columns& c, const Part& x, const PerToken& scale) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int j = i & 2;  // 2 j
    c[i] = pack(x[2 * i] * scale[j], x[2 * i + 1] * scale[j + 1]);
  }
}

__device__ inline void to_part(Part& x, const Columns& c) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 v = unpack(c[i]);
    x[2 * i] = v.x, x[2 * i + 1] = v.y;
  }
}

// x = a o x + b o y by tokens.
__device__ inline void combine(Part& x, const PerToken& a, const Part& y, const PerToken& b) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int t = 2 * (i >> 2) + (i & 1);
    x[i] = fmaf(a[t], x[i], b[t] * y[i]);
  }
}

// ---- Products ------------------------------------------------------------------------------

// [64, tokens] = weights x tokens: the weights' tile gives M by its rows, or by its columns when
// its rows run over K. Asynchronous, like product().
template <bool kRowsK>
__device__ inline void apply(Part& d, const bf16* weights, const bf16* tokens,
                             bool accumulate = false) {
  narrow_product<1, kRowsK, false>(d, weights, tokens, 0, accumulate);
}

// [64, f] +-= x^T y, tokens summed: x in registers as [64, token], y a narrow tile [token, f].
template <int kSign>
__device__ inline void outer(Acc& d, const Columns& x, const bf16* y) {
  wgmma_rs<kSign, 1>(d, x, tile_descriptor(y), 1);
}
// The same with x a narrow tile [token, 64].
template <int kSign>
__device__ inline void outer(Acc& d, const bf16* x, const bf16* y) {
  wgmma_ss<kSign, 1, 1>(d, tile_descriptor(x), tile_descriptor(y), 1);
}

// d -= x^T m^T or x^T m: [f, t] from a narrow tile [s, f] and a [t, s] mask, [f, s] from [t, f].
__device__ inline void mix_to_reads(Part& d, const bf16* x, const bf16* mask, bool accumulate) {
  wgmma_ss<-1, 1, 0>(d, tile_descriptor(x), tile_descriptor(mask), accumulate);
}
__device__ inline void mix_to_keys(Part& d, const bf16* x, const bf16* mask, bool accumulate) {
  wgmma_ss<-1, 1, 1>(d, tile_descriptor(x), tile_descriptor(mask), accumulate);
}

// [64, t] (+)= -x m^T, from key side to reads, and [64, s] (+)= -x m, back: x in registers, m a
// [t, s] mask in a narrow tile's first columns.
__device__ inline void to_reads(Part& d, const Columns& x, const bf16* mask, bool accumulate) {
  wgmma_rs<-1, 0>(d, x, tile_descriptor(mask), accumulate);
}
__device__ inline void to_keys(Part& d, const Columns& x, const bf16* mask, bool accumulate) {
  wgmma_rs<-1, 1>(d, x, tile_descriptor(mask), accumulate);
}

// a b^T of two narrow tiles, [token, token], by one warp: element (lane / 4 + 8 i,
// 8 j + 2 (lane % 4) + e) is c[4 j + 2 i + e].
__device__ inline void token_products(Part& c, const bf16* a, const bf16* b) {
  const int lane = threadIdx.x & 31, row = lane & 15;
  const uint32_t at = row * 128 + (((lane >> 4) ^ (row & 7)) << 4);
#pragma unroll
  for (int i = 0; i < 8; ++i) c[i] = 0;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t x[4], y[4];
    load_matrices(x, (smem_address(a) + at) ^ (32 * k));
    load_matrices(y, (smem_address(b) + at) ^ (32 * k));
    mma(c, x, y[0], y[2]);
    mma(c + 4, x, y[1], y[3]);
  }
}

// ---- Tiles ---------------------------------------------------------------------------------

// Where this lane's row of a warpgroup's [64, token] product lies in the tile [token, 64].
__device__ inline uint32_t transposed_address(const bf16* tile) {
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
  const int row = 8 * (lane >> 4) + (lane & 7), piece = 2 * warp + ((lane >> 3) & 1);
  return smem_address(tile) + row * 128 + ((piece ^ (row & 7)) << 4);
}

__device__ inline void store_transposed(bf16* tile, const Columns& c) {
  store_matrices_transposed(transposed_address(tile), c);
}

__device__ inline void load_transposed(Columns& c, const bf16* tile) {
  load_matrices_transposed(c, transposed_address(tile));
}

// Columns in global memory, in register order.
__device__ inline void store_columns(bf16* to, const Columns& c) {
  reinterpret_cast<uint4*>(to)[threadIdx.x & 127] = make_uint4(c[0], c[1], c[2], c[3]);
}
__device__ inline void load_columns(Columns& c, const bf16* from) {
  const uint4 x = reinterpret_cast<const uint4*>(from)[threadIdx.x & 127];
  c[0] = x.x, c[1] = x.y, c[2] = x.z, c[3] = x.w;
}

__device__ inline void store_pair(bf16* tile, int row, int col, float x, float y) {
  *reinterpret_cast<uint32_t*>(reinterpret_cast<char*>(tile) + swizzle_offset(row, col)) =
      pack(x, y);
}

// A [64 f, token] product into [token, f] sums; conflict-free.
__device__ inline void store_sums(Sums& to, const Part& x) {
  const NarrowPlace at;
#pragma unroll
  for (int i = 0; i < 8; ++i) to[at.token + 8 * (i >> 2) + (i & 1)][at.row + (i & 2) * 4] = x[i];
}

__device__ inline void load_sums(Part& x, const Sums& from) {
  const NarrowPlace at;
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] = from[at.token + 8 * (i >> 2) + (i & 1)][at.row + (i & 2) * 4];
}

// A [f, token] product to this CTA's sums and the other one's; neighbouring rows pair up so that
// eight bytes go at a time.
__device__ inline void send_sums(const Part& x, Sums& sums, uint64_t* bar, uint32_t other) {
  const NarrowPlace at;
  const bool odd = (threadIdx.x >> 2) & 1;
  float* here = &sums[at.token + odd][at.row & ~1];
  const uint32_t there = map_rank(smem_address(here), other);
  const uint32_t bar_there = map_rank(smem_address(bar), other);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float x0 = x[4 * j + 2 * i], x1 = x[4 * j + 2 * i + 1];
      const float given = __shfl_xor_sync(0xffffffffu, odd ? x0 : x1, 4);
      const float2 pair = odd ? make_float2(given, x1) : make_float2(x0, given);
      const int offset = 8 * j * kRowStride + 8 * i;
      *reinterpret_cast<float2*>(here + offset) = pair;
      send(there + 4 * offset, make_uint2(__float_as_uint(pair.x), __float_as_uint(pair.y)),
           bar_there);
    }
  }
  __syncwarp();
  if ((threadIdx.x & 31) == 0) mbar_arrive(bar);
}

// sum[t] += a o b over this thread's rows, for its tokens.
__device__ inline void add_dots(PerToken& sum, const Part& a, const Columns& b) {
  Part v;
  to_part(v, b);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    float& to = sum[2 * (i >> 2) + (i & 1)];
    to = fmaf(a[i], v[i], to);
  }
}

// Sums over a warp's rows.
__device__ inline void store_dots(float* to, PerToken& sum) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2)
      sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], lanes);
    if (lane < 4) to[8 * (i >> 1) + 2 * lane + (i & 1)] = sum[i];
  }
}

// Starts copying a narrow tile's rows, 16 bytes a thread; threads 0 .. 127 of the caller's choice.
__device__ inline void copy_narrow_async(bf16* tile, const bf16* rows, int64_t stride, int count,
                                         int thread) {
  const int row = thread >> 3, col = 8 * (thread & 7);
  const bool valid = row < count;
  copy_async(smem_address(tile) + swizzle_offset(row, col),
             valid ? rows + row * stride + col : rows, valid);
}

// ---- Tokens: a few lanes a token, as many features a lane -----------------------------------

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}

// Of a token that kLanes lanes share; `warp` counts from the first warp at work.
template <int kLanes>
struct TokenLane {
  static constexpr int kFeatures = kTile / kLanes;
  int token, f;
  __device__ explicit TokenLane(int warp) {
    const int lane = threadIdx.x & 31;
    token = warp * (32 / kLanes) + lane / kLanes, f = kFeatures * (lane % kLanes);
  }
};

// Sum over a token's lanes and each lane's n features.
template <int kLanes>
__device__ inline float token_sum(float x) {
#pragma unroll
  for (int lanes = 1; lanes < kLanes; lanes *= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}

template <int n>
using Features = float[n];

__device__ inline void load_row(Features<8>& x, const void* from) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack(words[i]);
    x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
  }
}
__device__ inline void load_row(Features<4>& x, const void* from) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  const float2 low = unpack(v.x), high = unpack(v.y);
  x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
}
__device__ inline void store_row(void* to, const Features<8>& x) {
  *reinterpret_cast<uint4*>(to) =
      make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
}
__device__ inline void store_row(void* to, const Features<4>& x) {
  *reinterpret_cast<uint2*>(to) = make_uint2(pack(x[0], x[1]), pack(x[2], x[3]));
}

// Features of a token's row in a narrow tile.
template <int n>
__device__ inline void load_features(Features<n>& x, const bf16* tile, int token, int f) {
  load_row(x, reinterpret_cast<const char*>(tile) + swizzle_offset(token, f));
}
template <int n>
__device__ inline void store_features(bf16* tile, int token, int f, const Features<n>& x) {
  store_row(reinterpret_cast<char*>(tile) + swizzle_offset(token, f), x);
}

template <int n>
__device__ inline void load_floats(Features<n>& x, const float* from) {
#pragma unroll
  for (int i = 0; i < n; i += 4) {
    const float4 v = *reinterpret_cast<const float4*>(from + i);
    x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
  }
}
template <int n>
__device__ inline void store_floats(float* to, const Features<n>& x) {
#pragma unroll
  for (int i = 0; i < n; i += 4)
    *reinterpret_cast<float4*>(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
}

// The sum of `count` arrays' rows.
template <int n>
__device__ inline void load_total(Features<n>& x, const Sums* sums, int count, int token, int f) {
  load_floats(x, &sums[0][token][f]);
#pragma unroll
  for (int i = 1; i < count; ++i) {
    Features<n> y;
    load_floats(y, &sums[i][token][f]);
#pragma unroll
    for (int j = 0; j < n; ++j) x[j] += y[j];
  }
}

// The layer norm at the network's end, for one token of kLanes lanes.
template <int kLanes>
struct TokenNorm {
  static constexpr int n = kTile / kLanes;
  Features<n> xhat;
  float r;

  __device__ void normalize(const Features<n>& o, float epsilon) {
    float sum = 0, square = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) sum += o[i];
    const float mean = token_sum<kLanes>(sum) * (1.0f / kTile);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      xhat[i] = o[i] - mean;
      square = fmaf(xhat[i], xhat[i], square);
    }
    r = rsqrtf(token_sum<kLanes>(square) * (1.0f / kTile) + epsilon);
#pragma unroll
    for (int i = 0; i < n; ++i) xhat[i] *= r;
  }
  // x -> r (x - mean(x) - xhat mean(x xhat))
  __device__ void project(Features<n>& x) const {
    float m1 = 0, m2 = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) m1 += x[i], m2 = fmaf(x[i], xhat[i], m2);
    m1 = token_sum<kLanes>(m1) * (1.0f / kTile);
    m2 = token_sum<kLanes>(m2) * (1.0f / kTile);
#pragma unroll
    for (int i = 0; i < n; ++i) x[i] = r * (x[i] - m1 - xhat[i] * m2);
  }
};

}  // namespace mnemo::memory
