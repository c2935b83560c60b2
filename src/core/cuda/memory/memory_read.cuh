// The pieces of read. Only memory_read_kernel.cuh includes this.
#pragma once

#include "src/core/cuda/memory/memory_activation.cuh"
#include "src/core/cuda/memory/memory_gates.cuh"
#include "src/core/cuda/memory/memory_rows.cuh"

namespace mnemo::memory {
namespace {

constexpr int kStages = 3;
// Pairs of tiles a block streams: W, then W and S again, then W_0 if there are options.
template <bool kOptions>
constexpr int kPairs = kOptions ? 3 : 2;
template <bool kOptions>
constexpr int kLoads = (1 + kPairs<kOptions>)*kSlices;

struct SharedStorage {
  alignas(1024) bf16 stage[kStages][2][kTileElements];
  bf16 q[kTileElements];
  bf16 k[kTileElements];
  bf16 d2[kTileElements];  // v until the deltas are known
  bf16 h[kTileElements];
  bf16 d1[kTileElements];
  ChunkGates gates;
  float gain[kTile], bias[kTile];
  uint64_t full[kStages];
};

struct Params {
  CommonParams common;
  Rows y;     // reading: out; keeping: dy
  Kept kept;  // keeping only
};

template <bool kOptions>
__device__ void load_stage(const Params& p, SharedStorage& s, int block, int load) {
  const int slice = load < kSlices ? load : (load - kSlices) / kPairs<kOptions>;
  const int pair = load < kSlices ? 0 : (load - kSlices) % kPairs<kOptions>;
  uint64_t* bar = &s.full[load % kStages];
  const bf16* from =
      p.common.states + int64_t{block} * kStateElements + (4 * slice + 2 * pair) * kTileElements;
  if (kOptions && pair == 2) {
    const Segment& seg = p.common.segment;
    const int head = block / seg.chunks % seg.heads;
    from = p.common.options.initial_tiles + (head * kSlices + slice) * 2 * kTileElements;
  }
  mbar_expect(bar, 2 * kTileBytes);
  bulk_load(s.stage[load % kStages], from, 2 * kTileBytes, bar);
}

// What rows of W_0 are multiplied with: 1 - A_t.
__device__ void fade_of(float (&fade)[2], const Options& o, const float (&decay)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) fade[i] = o.towards_initial ? 1 - decay[i] : 0;
}

// dy back through the layer norm and the last layer's masked product. y holds the normalised
// output, r its inverse deviations, r2 = X H^T and masked = G o r2.
__device__ void last_layer_backward(const Params& p, SharedStorage& s, int block, Acc& y,
                                    const float (&r)[2], Acc& r2, const Frag& masked) {
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
  copy_wait<0>();
  __syncthreads();  // dy has come, and the stages are idle: their memory takes the column sums
  float* parts = reinterpret_cast<float*>(s.stage[0][0]);
  Acc acc;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 dy = tile_pair(s.q, row + 8 * i, 8 * j + col);
      acc[4 * j + 2 * i] = dy.x, acc[4 * j + 2 * i + 1] = dy.y;
    }
  }
  column_sums(acc, parts);
  {
    Acc product;
#pragma unroll
    for (int i = 0; i < 32; ++i) product[i] = acc[i] * y[i];
    column_sums(product, parts + 4 * kTile);
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 gain = *reinterpret_cast<const float2*>(s.gain + 8 * j + col);
#pragma unroll
    for (int i = 0; i < 2; ++i) acc[4 * j + 2 * i] *= gain.x, acc[4 * j + 2 * i + 1] *= gain.y;
  }
  project(acc, y, r);
  Frag dz;
  to_frag(dz, acc);
  store_fragment(p.kept.tile(block, kept::kDz2), dz);
  store_frag(s.h, dz);
  store_frag(s.d1, masked);
  fence_async();
  __syncthreads();
  if (thread < kTile) {
    const auto sum = [&](const float* x) {
      return (x[thread] + x[kTile + thread]) + (x[2 * kTile + thread] + x[3 * kTile + thread]);
    };
    p.kept.floats(block, kept::kDbias)[thread] = sum(parts);
    p.kept.floats(block, kept::kDgain)[thread] = sum(parts + 4 * kTile);
  }
  wgmma_fence();
  product<1, false>(acc, dz, s.d2, false);
  product<-1, true, true>(y, s.d1, s.h, false);
  wgmma_commit();
  wgmma_wait<0>();
  float4* dg = reinterpret_cast<float4*>(p.kept.tile(block, kept::kDg)) + thread;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    dg[128 * j] = make_float4(-r2[4 * j] * acc[4 * j], -r2[4 * j + 1] * acc[4 * j + 1],
                              -r2[4 * j + 2] * acc[4 * j + 2], -r2[4 * j + 3] * acc[4 * j + 3]);
  }
  mask(dz, acc, s.gates, row, col);
  store_fragment(p.kept.tile(block, kept::kM2), dz);
  to_frag(dz, y);
  store_frag(s.k, dz);
  fence_async();
  __syncthreads();
  if (thread == 0) {
    bulk_store(p.kept.tile(block, kept::kDd2), s.k, kTileBytes);
    bulk_commit();
    bulk_wait();
  }
}

}  // namespace
}  // namespace mnemo::memory
