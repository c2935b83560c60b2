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
  Rows y;     // out
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

__device__ void add_one(Acc& x) {
#pragma unroll
  for (int i = 0; i < 32; ++i) x[i] += 1;
}

// A block's biases, kBiases each: before the chunk, their momenta, the first ones.
struct ReadBiases {
  const float *c, *t, *first_c1, *first_c2;

  __device__ ReadBiases(const Params& p, int block, bool biased) {
    const Options& o = p.common.options;
    const Segment& seg = p.common.segment;
    if (!biased) return;
    const int head = block / seg.chunks % seg.heads;
    c = o.bias_states + int64_t{block} * (2 * kBiases), t = c + kBiases;
    first_c1 = o.initial_c1 + head * kSlices * kTile, first_c2 = o.initial_c2 + head * kTile;
  }

  // z += A c + B t + (1 - A) c_0 in the 64 columns from bias `at` on.
  __device__ void add_to_reads(Acc& z, int at, const Options& o, const float (&decay)[2],
                               const float (&push)[2]) const {
    add_columns(z, decay, c + at);
    add_columns(z, push, t + at);
    if (!o.towards_initial) return;
    float fade[2];
    fade_of(fade, o, decay);
    add_columns(z, fade, at < kSlices * kTile ? first_c1 + at : first_c2);
  }
};

}  // namespace
}  // namespace mnemo::memory
