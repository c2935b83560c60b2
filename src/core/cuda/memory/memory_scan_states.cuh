// The pieces of scan_states's step. Only memory_scan_states_kernel.cuh includes this.
#pragma once

#include "src/core/cuda/memory/memory_activation.cuh"
#include "src/core/cuda/memory/memory_rows.cuh"
#include "src/core/cuda/memory/memory_slice.cuh"

namespace mnemo::memory {
namespace {

constexpr int kRanks = 2;
constexpr int kThreads = 512;
constexpr int kOwned = kTile / kRanks;  // tokens whose delta this CTA forms
constexpr int kPartStride = 68;         // floats; spreads the sums over the banks
constexpr uint32_t kPartBytes = kOwned * kTile * 4, kDeltaBytes = kOwned * kTile * 2;
// For the clamp: squares of H and D1 summed over sixteen hidden units, of every token.
constexpr int kSquareParts = 8;  // of a CTA's hidden units
using Squares = float[2][kSquareParts][kTile];
constexpr uint32_t kSquareBytes = sizeof(Squares);
constexpr int kBiasRows = 3;

template <bool kOptions>
struct SharedStorage {
  // As the state store keeps it: for each slice W1, W2^T, S1, S2^T.
  alignas(1024) bf16 state[2][4][kTileElements];
  bf16 k[2][kTileElements];                 // [token, f], this chunk's and the next one's
  bf16 v[2][kTileElements / kRanks];        // own tokens
  bf16 d2[kTileElements];                   // [token, f]
  bf16 scaled[2][2][kTileElements];         // [token, f]: g k, p k; g delta, p delta
  bf16 h[2][kTileElements];                 // [hidden, token]
  bf16 d1[2][kTileElements];                // [hidden, token]
  float part[kRanks][kOwned][kPartStride];  // [source CTA, own token, f]
  float coefficients[2][kCoefficients];
  float gain[kTile], bias[kTile];
  uint64_t part_bar, d2_bar;
  // By the chunk's parity, since the other CTA sends the next one's before it waits for this one.
  uint64_t square_bar[2];
  alignas(16) Squares squares[kOptions ? 2 : 1][kOptions ? kRanks : 1];  // then by source CTA
  float clamp_factors[kOptions ? kTile : 4];
  // Biases and their momenta: c1 of this CTA's slices, then c2, which both CTAs keep.
  float biases[kOptions ? 2 : 1][kOptions ? kBiasRows : 1][kOptions ? kTile : 4];
};

struct Params {
  CommonParams common;
  MemoryScanCarry in, out;
};

using Part = float[16];  // 64 x 32

__device__ void store_half(void* tile, const Part& x, int column) {
  uint32_t frag[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) frag[i] = pack(x[2 * i], x[2 * i + 1]);
  store_frag(tile, frag, column);
}

// Sum over the sixteen lanes that hold one token.
__device__ float token_sum(float x) {
#pragma unroll
  for (int mask = 1; mask < 16; mask *= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

// One owned token's delta, four features a lane: f = 4 (lane % 16) + i. With xhat = r (o - mean) it
// is r (x - mean(x) - xhat mean(x xhat)), x = gain^2 xhat + fixed: every mean follows from sums
// that need neither mean nor r, so that one round of shuffles does.
struct TokenDelta {
  float gain2[4], fixed[4];
  float gain2_sum, fixed_sum;

  // What does not depend on the network's output.
  template <typename Storage>
  __device__ void prepare(const Storage& s, const bf16* k_tile, const bf16* v_tile, int row,
                          int local, bool residual) {
    const int f = 4 * (threadIdx.x & 15);
    uint2 k = *reinterpret_cast<const uint2*>(reinterpret_cast<const char*>(k_tile) +
                                              swizzle_offset(row, f));
    if (!residual) k = make_uint2(0, 0);
    const uint2 v = *reinterpret_cast<const uint2*>(reinterpret_cast<const char*>(v_tile) +
                                                    swizzle_offset(local, f));
    const float4 gain = *reinterpret_cast<const float4*>(s.gain + f);
    const float4 bias = *reinterpret_cast<const float4*>(s.bias + f);
    fixed[0] = gain.x * (bias.x + unpack(k.x).x - unpack(v.x).x);
    fixed[1] = gain.y * (bias.y + unpack(k.x).y - unpack(v.x).y);
    fixed[2] = gain.z * (bias.z + unpack(k.y).x - unpack(v.y).x);
    fixed[3] = gain.w * (bias.w + unpack(k.y).y - unpack(v.y).y);
    gain2[0] = gain.x * gain.x, gain2[1] = gain.y * gain.y;
    gain2[2] = gain.z * gain.z, gain2[3] = gain.w * gain.w;
    gain2_sum = token_sum((gain2[0] + gain2[1]) + (gain2[2] + gain2[3]));
    fixed_sum = token_sum((fixed[0] + fixed[1]) + (fixed[2] + fixed[3]));
  }

  // Without a norm, gains of one and biases of zero, the delta is the error itself. c2: the last
  // layer's biases, or null.
  template <typename Storage>
  __device__ uint2 finish(const Storage& s, int local, float epsilon, bool normed,
                          const float* c2) const {
    const int f = 4 * (threadIdx.x & 15);
    const float4 mine = *reinterpret_cast<const float4*>(&s.part[0][local][f]);
    const float4 other = *reinterpret_cast<const float4*>(&s.part[1][local][f]);
    float o[4] = {mine.x + other.x, mine.y + other.y, mine.z + other.z, mine.w + other.w};
    if (c2 != nullptr) {
#pragma unroll
      for (int i = 0; i < 4; ++i) o[i] += c2[f + i];
    }
    if (!normed)
      return make_uint2(pack(o[0] + fixed[0], o[1] + fixed[1]),
                        pack(o[2] + fixed[2], o[3] + fixed[3]));
    float sum = 0, square = 0, first = 0, second = 0, cross = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum += o[i];
      square = fmaf(o[i], o[i], square);
      first = fmaf(gain2[i], o[i], first);
      second = fmaf(gain2[i] * o[i], o[i], second);
      cross = fmaf(fixed[i], o[i], cross);
    }
#pragma unroll
    for (int mask = 1; mask < 16; mask *= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, mask);
      square += __shfl_xor_sync(0xffffffffu, square, mask);
      first += __shfl_xor_sync(0xffffffffu, first, mask);
      second += __shfl_xor_sync(0xffffffffu, second, mask);
      cross += __shfl_xor_sync(0xffffffffu, cross, mask);
    }
    constexpr float kMean = 1.0f / kTile;
    const float mean = sum * kMean;
    const float r = rsqrtf(fmaxf(fmaf(square, kMean, -mean * mean), 0.0f) + epsilon);
    const float m1 = fmaf(r, fmaf(-mean, gain2_sum, first), fixed_sum) * kMean;
    const float spread = second - mean * (2 * first - mean * gain2_sum);
    const float m2 = r * fmaf(r, spread, cross - mean * fixed_sum) * kMean;
    float delta[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float xhat = r * (o[i] - mean);
      delta[i] = r * (fmaf(gain2[i], xhat, fixed[i]) - m1 - xhat * m2);
    }
    return make_uint2(pack(delta[0], delta[1]), pack(delta[2], delta[3]));
  }
};

// g_s x_s and p_s x_s for a [token, f] tile, eight elements a thread.
__device__ void scale_tokens(bf16 (&out)[2][kTileElements], const bf16* tile, const float* g,
                             float factor = 1) {
  const int row = threadIdx.x >> 3, at = swizzle_offset(row, 8 * (threadIdx.x & 7));
  const uint4 x = *reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(tile) + at);
  const float2 a = unpack(x.x), b = unpack(x.y), c = unpack(x.z), d = unpack(x.w);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float scale = factor * g[kTile * i + row];
    *reinterpret_cast<uint4*>(reinterpret_cast<char*>(out[i]) + at) =
        make_uint4(pack(scale * a.x, scale * a.y), pack(scale * b.x, scale * b.y),
                   pack(scale * c.x, scale * c.y), pack(scale * d.x, scale * d.y));
  }
}

// This thread's piece of a chunk's keys and own values.
struct Prefetcher {
  const bf16 *k, *v;  // in the segment's first chunk
  int last_row;       // of the sequence, counted from the segment's first token

  __device__ Prefetcher(const Params& p, int sequence) {
    const Segment& seg = p.common.segment;
    const int row = threadIdx.x >> 3, col = 8 * (threadIdx.x & 7);
    const int64_t token = min(seg.first_token + row, seg.tokens - 1);
    k = p.common.k.at(seg, sequence, token) + col;
    v = p.common.v.at(seg, sequence, token) + col;
    last_row = static_cast<int>(
        min(seg.tokens - 1 - seg.first_token, int64_t{seg.chunks} * seg.chunk - 1));
  }

  // Keys, own values and coefficients of a chunk.
  template <typename Storage>
  __device__ void start(const Params& p, Storage& s, int sequence, int rank, int chunk) const {
    const int row = threadIdx.x >> 3, slot = chunk & 1;
    const int at = swizzle_offset(row, 8 * (threadIdx.x & 7));
    const int tokens = p.common.segment.chunk;
    const bool valid = row < tokens && chunk * tokens + row <= last_row;
    const int64_t rows = valid ? int64_t{chunk} * tokens : 0;
    copy_async(smem_address(s.k[slot]) + at, k + rows * p.common.k.token_stride, valid);
    if (row / kOwned == rank) {
      copy_async(smem_address(s.v[slot]) + at - rank * kOwned * 128,
                 v + rows * p.common.v.token_stride, valid);
    }
    if (threadIdx.x < kCoefficients / 4) {
      const float* from = p.common.coefficients +
                          (int64_t{sequence} * p.common.segment.chunks + chunk) * kCoefficients;
      copy_async(smem_address(&s.coefficients[slot][4 * threadIdx.x]), from + 4 * threadIdx.x,
                 true);
    }
    copy_commit();
  }
};

// W_0 in the place of W, zero in the place of S.
__device__ void reset_state(const Options& o, int head, int slice, int layer, Acc& w, Acc& m) {
  const float4* from = initial_at(o.initial, head, slice, layer);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4 x = from[128 * j];
    w[4 * j] = x.x, w[4 * j + 1] = x.y, w[4 * j + 2] = x.z, w[4 * j + 3] = x.w;
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) m[i] = 0;
}

__device__ void add_initial(const Options& o, int head, int slice, int layer, float scale, Acc& w) {
  const float4* from = initial_at(o.initial, head, slice, layer);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4 x = from[128 * j];
    w[4 * j] = fmaf(scale, x.x, w[4 * j]), w[4 * j + 1] = fmaf(scale, x.y, w[4 * j + 1]);
    w[4 * j + 2] = fmaf(scale, x.z, w[4 * j + 2]), w[4 * j + 3] = fmaf(scale, x.w, w[4 * j + 3]);
  }
}

// This warp's part of the squares of x [hidden, token], its tokens from `column` on, to both CTAs:
// of H (which = 0) or D1 (1).
__device__ void send_squares(const Part& x, Squares& to, uint64_t* bar, uint32_t other, int which,
                             int part, int column) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float sum[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      sum[e] = fmaf(x[4 * j + e], x[4 * j + e], x[4 * j + 2 + e] * x[4 * j + 2 + e]);
#pragma unroll
      for (int mask = 4; mask < 32; mask *= 2) sum[e] += __shfl_xor_sync(0xffffffffu, sum[e], mask);
    }
    if (lane >= 4) continue;
    float* here = &to[which][part][column + 8 * j + 2 * lane];
    *reinterpret_cast<float2*>(here) = make_float2(sum[0], sum[1]);
    send(map_rank(smem_address(here), other),
         make_uint2(__float_as_uint(sum[0]), __float_as_uint(sum[1])),
         map_rank(smem_address(bar), other));
  }
}

__device__ float row_squares(const bf16* tile, int at) {
  const uint4 x = *reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(tile) + at);
  const float2 a = unpack(x.x), b = unpack(x.y), c = unpack(x.z), d = unpack(x.w);
  return fmaf(a.x, a.x, a.y * a.y) + fmaf(b.x, b.x, b.y * b.y) + fmaf(c.x, c.x, c.y * c.y) +
         fmaf(d.x, d.x, d.y * d.y);
}

// The clamp's factor of token thread / 8, by eight lanes a token. One CTA of the cluster also
// writes down what later kernels take: the factors, and the clamped g and p.
__device__ float clamp_factor(const Options& o, const Squares (&squares)[kRanks],
                              const bf16* d2_tile, const bf16* k_tile, const float* g, bool writes,
                              int block, int count, float* coefficients) {
  const int row = threadIdx.x >> 3, lane = threadIdx.x & 7, at = swizzle_offset(row, 8 * lane);
  float sums[4] = {squares[0][0][lane][row] + squares[1][0][lane][row],
                   squares[0][1][lane][row] + squares[1][1][lane][row], row_squares(d2_tile, at),
                   row_squares(k_tile, at)};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int mask = 1; mask < 8; mask *= 2) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], mask);
  }
  if (o.biases) sums[0] += 1, sums[3] += 1;
  const float norm2 = fmaf(sums[0], sums[2], sums[1] * sums[3]);
  const float factor = sqrtf(o.limit2 / (o.limit2 + norm2));
  const bool speaks = writes && lane == 0;
  if (speaks) {
    float* to = o.clamp + int64_t{block} * kClampFloats + row;
    to[0] = factor, to[kTile] = 1 / (o.limit2 + norm2);
    float* row_to = coefficients + int64_t{block} * kCoefficients + row;
    row_to[0] = factor * g[row], row_to[kTile] = factor * g[kTile + row];
  }
  const unsigned hits = __ballot_sync(0xffffffffu, speaks && row < count && norm2 > o.limit2);
  if (hits != 0 && o.clamp_hits != nullptr && (threadIdx.x & 31) == 0)
    atomicAdd(o.clamp_hits, __popc(hits));
  return factor;
}

// The bias that a thread keeps, threads 0 .. 191: c1 of this CTA's slices, then c2.
struct OwnBias {
  int row, column, index;  // in s.biases, and of kBiases
  bool keeps, speaks;      // speaks: the other CTA, which has c2 too, does not
  __device__ OwnBias(bool biased, int rank) {
    // Opaque, or the compiler keeps all of it from chunk to chunk.
    int thread = static_cast<int>(threadIdx.x);
    make_opaque(thread);
    row = thread / kTile, column = thread % kTile;
    index = row < 2 ? (2 * rank + row) * kTile + column : kSlices * kTile + column;
    keeps = biased && row < kBiasRows;
    speaks = keeps && (row < 2 || rank == 0);
  }
};

// c -= sum g_s D_s, t -= sum p_s D_s behind what the chunk's end does to them; g with the clamp's
// factors where it clamps.
template <typename Storage>
__device__ void update_bias(const Params& p, Storage& s, const OwnBias& own, const float* g,
                            int head) {
  const Options& o = p.common.options;
  float& c = s.biases[0][own.row][own.column];
  float& t = s.biases[1][own.row][own.column];
  const float a = g[128], b = g[129], e = g[130];
  c = fmaf(a, c, b * t), t *= e;
  if (o.towards_initial) c = fmaf(1 - a, *bias_at(o.initial_c1, o.initial_c2, head, own.index), c);
  // D1 lies as [hidden, token], D2 as [token, f].
  const bf16* tile = own.row < 2 ? s.d1[own.row] : s.d2;
#pragma unroll 8
  for (int token = 0; token < kTile; token += 2) {
    float2 d;
    if (own.row < 2) {
      d = tile_pair(tile, own.column, token);
    } else {
      const float2 x = tile_pair(tile, token, own.column & ~1);
      const float2 y = tile_pair(tile, token + 1, own.column & ~1);
      d = own.column & 1 ? make_float2(x.y, y.y) : make_float2(x.x, y.x);
    }
    if (o.clamps()) d.x *= s.clamp_factors[token], d.y *= s.clamp_factors[token + 1];
    c -= fmaf(g[token], d.x, g[token + 1] * d.y);
    t -= fmaf(g[kTile + token], d.x, g[kTile + token + 1] * d.y);
  }
}

}  // namespace
}  // namespace mnemo::memory
