// What scan_adjoint's clusters share, and the work of a token's owner: the delta's adjoint taken
// back through the layer norm. Only memory_scan_adjoint_kernel.cuh includes this.
#pragma once

#include "src/core/cuda/memory/memory_rows.cuh"
#include "src/core/cuda/memory/memory_slice.cuh"

namespace mnemo::memory {
namespace {

constexpr int kRanks = kSlices;
constexpr int kThreads = 256;
constexpr int kOwned = kTile / kRanks;
constexpr int kPartStride = 68;  // floats
constexpr uint32_t kPartBytes = (kRanks - 1) * kOwned * kTile * 4;
constexpr uint32_t kDoBytes = (kRanks - 1) * kOwned * kTile * 2;
constexpr uint32_t kKappaBytes = (kRanks - 1) * kOwned * 8;  // with dO, if the rule clamps

struct Stage {
  bf16 k[kTileElements];           // [token, f]
  bf16 d2[kTileElements];          // [token, f]
  bf16 h[kTileElements];           // [token, hidden]
  bf16 d1[kTileElements];          // [token, hidden]
  bf16 weights[2][kTileElements];  // W1, W2^T [hidden, f]
};

struct SharedStorage {
  alignas(1024) Stage stage[2];
  bf16 adjoint[2][2][kTileElements];        // [layer][W, S], [hidden, f]
  bf16 du[kTileElements];                   // [token, hidden]
  bf16 dz[kTileElements];                   // dD1 o U o act'', then dZ, [token, hidden]
  bf16 d_o[kTileElements];                  // [token, f]
  bf16 reads[2][kTileElements];             // the reads' Q, dZ2, [token, f]
  float part[kRanks][kOwned][kPartStride];  // [source CTA, own token, f]
  float coefficients[2][kCoefficients];
  float read_scales[2][2][kTile];  // A_t, B_t
  float gain[kTile], bias[kTile];
  uint64_t stage_bar[2], part_bar, do_bar, reads_bar;
};

struct OptionStorage : SharedStorage {
  float2 kappa[kTile];  // times |K|^2, times |D2|^2
  // By the step's parity and layer: adjoints of this slice's c1 or of c2, and of their momenta.
  float biases[2][2][2][kTile];
};

struct Params {
  CommonParams common;
  MemoryScanCarry in, out;
  Rows dv;
  Kept kept;
  float* norm_parts;
  bool first;
};

__device__ float token_sum(float x) {  // over the sixteen lanes of one token
#pragma unroll
  for (int mask = 1; mask < 16; mask *= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

__device__ float warp_sum(float x) {
#pragma unroll
  for (int mask = 1; mask < 32; mask *= 2) x += __shfl_xor_sync(0xffffffffu, x, mask);
  return x;
}

__device__ void prefetch(const Params& p, SharedStorage& s, int sequence, int rank, int step,
                         const bf16* keys, int last_row) {
  const Segment& seg = p.common.segment;
  const int chunk = seg.chunks - 1 - step, block = sequence * seg.chunks + chunk;
  const int thread = threadIdx.x;
  Stage& stage = s.stage[step & 1];
  const bf16* states = p.common.states + int64_t{block} * kStateElements + rank * 4 * kTileElements;
  if (thread == 0) {
    uint64_t* bar = &s.stage_bar[step & 1];
    mbar_expect(bar, 5 * kTileBytes);
    bulk_load(stage.d2, p.kept.tile(block, kept::kD2), kTileBytes, bar);
    bulk_load(stage.h, p.kept.tile(block, kept::kPerSlice * rank + kept::kH), 2 * kTileBytes, bar);
    bulk_load(stage.weights, states, 2 * kTileBytes, bar);
  } else if (thread == 128) {  // what the registers will take
    bulk_prefetch(states + 2 * kTileElements, 2 * kTileBytes);
    // X, dZ1, and the keys' derivatives.
    bulk_prefetch(p.kept.tile(block, kept::kPerSlice * rank + kept::kX), 4 * kTileBytes);
    bulk_prefetch(p.kept.tile(block, kept::kDh + rank), kTileBytes);
    bulk_prefetch(p.kept.tile(block, kept::kDd1 + rank), kTileBytes);
    bulk_prefetch(p.kept.tile(block, kept::kDd2), 3 * kTileBytes);  // and xhat
  }
  const int row = thread >> 3, col = 8 * (thread & 7);
  const int tokens = seg.chunk;
  const bf16* from = keys + int64_t{chunk} * tokens * p.common.k.token_stride;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool valid = row + 32 * i < tokens && chunk * tokens + row + 32 * i <= last_row;
    copy_async(smem_address(stage.k) + swizzle_offset(row, col) + 32 * 128 * i,
               valid ? from + 32 * i * p.common.k.token_stride : keys, valid);
  }
  if (thread < kCoefficients / 4) {
    copy_async(smem_address(&s.coefficients[step & 1][4 * thread]),
               p.common.coefficients + int64_t{block} * kCoefficients + 4 * thread, true);
  } else if (thread >= 128 && thread < 128 + 2 * kTile / 4) {
    copy_async(smem_address(&s.read_scales[step & 1][0][0] + 4 * (thread - 128)),
               p.kept.floats(block, kept::kA) + 4 * (thread - 128), true);
  }
  copy_commit();
}

// The reads' Q and dZ2; by one thread, once those of the step before have been used.
__device__ void load_reads(const Params& p, SharedStorage& s, int sequence, int step) {
  const Segment& seg = p.common.segment;
  mbar_expect(&s.reads_bar, 2 * kTileBytes);
  bulk_load(s.reads, p.kept.tile(sequence * seg.chunks + seg.chunks - 1 - step, kept::kReads),
            2 * kTileBytes, &s.reads_bar);
}

// x, [hidden, token], with the tokens scaled.
__device__ void scale_columns(Frag& out, const Frag& x, const float (&scale)[kTile]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 by =
        *reinterpret_cast<const float2*>(scale + 8 * (i >> 1) + 2 * (threadIdx.x & 3));
    const float2 v = unpack(x[i]);
    out[i] = pack(by.x * v.x, by.y * v.y);
  }
}

// What the owner of a token needs besides the sum: four features from 4 (lane % 16) on.
struct OwnToken {
  float4 xhat;
  float r;
  uint2 v, dd2;
};

__device__ OwnToken load_own(const Params& p, int sequence, int block, int64_t token, int row,
                             bool valid) {
  const Segment& seg = p.common.segment;
  const int f = 4 * (threadIdx.x & 15);
  OwnToken o;
  o.xhat = *reinterpret_cast<const float4*>(
      reinterpret_cast<const float*>(p.kept.tile(block, kept::kXhat)) + row * kTile + f);
  o.r = p.kept.floats(block, kept::kInvDeviation)[row];
  o.dd2 = *reinterpret_cast<const uint2*>(
      reinterpret_cast<const char*>(p.kept.tile(block, kept::kDd2)) + swizzle_offset(row, f));
  o.v = valid ? *reinterpret_cast<const uint2*>(p.common.v.at(seg, sequence, token) + f)
              : make_uint2(0, 0);
  return o;
}

__device__ void to_floats(float (&x)[4], uint2 v) {
  const float2 lo = unpack(v.x), hi = unpack(v.y);
  x[0] = lo.x, x[1] = lo.y, x[2] = hi.x, x[3] = hi.y;
}

// The clamp's share of the delta's adjoint (Options), into `ds`; what the token's other adjoints
// need of it comes back: kappa times |K|^2 and times |D2|^2.
__device__ float2 clamp_backward(const Params& p, const Stage& stage, int block, int row,
                                 float (&ds)[4]) {
  const Options& o = p.common.options;
  const int f = 4 * (threadIdx.x & 15);
  float d2[4], along = 0;
  to_floats(d2, *reinterpret_cast<const uint2*>(reinterpret_cast<const char*>(stage.d2) +
                                                swizzle_offset(row, f)));
#pragma unroll
  for (int i = 0; i < 4; ++i) along = fmaf(ds[i], d2[i], along);
  const float kappa = -token_sum(along) * o.clamp[int64_t{block} * kClampFloats + kTile + row];
  const float4 reach = *reinterpret_cast<const float4*>(
      reinterpret_cast<const float*>(o.kept.tile(block, extra_kept::kReach)) + row * kTile + f);
  ds[0] = fmaf(kappa, reach.x, ds[0]), ds[1] = fmaf(kappa, reach.y, ds[1]);
  ds[2] = fmaf(kappa, reach.z, ds[2]), ds[3] = fmaf(kappa, reach.w, ds[3]);
  const auto norm = [&](int which) { return o.kept.floats(block, which)[row]; };
  if (f == 0) *o.kept.floats(block, extra_kept::kKeyScale + row) = kappa * norm(extra_kept::kD1);
  return make_float2(kappa * norm(extra_kept::kK2), kappa * norm(extra_kept::kD2));
}

// dW_0 gets the share of this chunk's end, (1 - A_b) dW', and of its reads; <dW', W_0> comes back.
__device__ float add_initial(const Options& o, int sequence, int head, int block, int rank,
                             int layer, float scale, const Acc& dw) {
  const int lane = threadIdx.x & 31, row = 16 * ((threadIdx.x >> 5) & 3) + lane / 4;
  const char* w0 = reinterpret_cast<const char*>(
      o.initial_tiles + ((head * kSlices + rank) * 2 + layer) * kTileElements);
  float4* to = initial_at(o.dinitial, sequence, rank, layer);
  const uint4* reads =
      reinterpret_cast<const uint4*>(o.kept.tile(block, extra_kept::kDinitial + 2 * rank + layer)) +
      (threadIdx.x & 127);
  float dot = 0;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint4 r = reads[128 * k];
    const uint32_t words[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int j = 2 * k + half;
      float sum[4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 read = unpack(words[2 * half + i]);
        const float2 w = unpack(*reinterpret_cast<const uint32_t*>(
            w0 + swizzle_offset(row + 8 * i, 8 * j + 2 * (lane & 3))));
        const float x = dw[4 * j + 2 * i], y = dw[4 * j + 2 * i + 1];
        dot = fmaf(x, w.x, fmaf(y, w.y, dot));
        sum[2 * i] = fmaf(scale, x, read.x), sum[2 * i + 1] = fmaf(scale, y, read.y);
      }
      add_floats(reinterpret_cast<float*>(to + 128 * j), sum);
    }
  }
  return dot;
}

// The chunk began at W_0: all of dW goes there, nothing to the chunk before.
__device__ void reset_adjoint(const Options& o, int sequence, int rank, int layer, Acc& dw,
                              Acc& ds) {
  float4* to = initial_at(o.dinitial, sequence, rank, layer);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float x[4] = {dw[4 * j], dw[4 * j + 1], dw[4 * j + 2], dw[4 * j + 3]};
    add_floats(reinterpret_cast<float*>(to + 128 * j), x);
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) dw[i] = ds[i] = 0;
}

// A thread's bias: of c1 in this CTA's slice (threads 0 .. 63), its momentum, of c2, its momentum;
// of the latter every CTA keeps all.
struct OwnBias {
  int layer, which, column, index;  // which: 0 the bias, 1 its momentum; index of kBiases
  bool speaks;                      // no other CTA has it, or none but this is to say so
  __device__ OwnBias(bool biased, int rank) {
    // Opaque, or the compiler keeps all of it from chunk to chunk.
    int thread = static_cast<int>(threadIdx.x);
    make_opaque(thread);
    layer = thread / (2 * kTile), which = thread / kTile % 2, column = thread % kTile;
    index = (layer == 0 ? rank : kSlices) * kTile + column;
    speaks = biased && (layer == 0 || rank == 0);
  }
  __device__ float* at(OptionStorage& s, int parity) const {
    return &s.biases[parity][layer][which][column];
  }
};

// What the end of a chunk and the reads say of this thread's bias; `adjoint` is that after the
// chunk, of biases and momenta. Adds to the dots; returns the adjoint before the chunk, but for
// what the keys say.
__device__ float bias_adjoint(const Params& p, const float (&adjoint)[2][kTile], const OwnBias& own,
                              int sequence, int block, const float* g, float (&dots)[3]) {
  const Options& o = p.common.options;
  const float* states = o.bias_states + int64_t{block} * (2 * kBiases) + own.index;
  const float* reads = o.kept.floats(block, extra_kept::kDbiases) + own.index;
  const float a = g[128], b = g[129], e = g[130];
  const float dc = adjoint[0][own.column], dt = adjoint[1][own.column];
  const float c = states[0], t = states[kBiases];
  if (own.which == 1) {
    if (own.speaks) dots[2] = fmaf(dt, t, dots[2]);
    return fmaf(b, dc, fmaf(e, dt, reads[kBiases]));
  }
  if (own.speaks) {
    dots[0] = fmaf(dc, c, dots[0]);
    dots[1] = fmaf(dc, t, dots[1]);
    if (o.towards_initial) {
      const int head = sequence % p.common.segment.heads;
      dots[0] = fmaf(-dc, *bias_at(o.initial_c1, o.initial_c2, head, own.index), dots[0]);
      o.dinitial_biases[int64_t{sequence} * kBiases + own.index] +=
          fmaf(1 - a, dc, reads[2 * kBiases]);
    }
  }
  return fmaf(a, dc, reads[0]);
}

// Sum over the tokens of one column of a [token, ..] tile.
__device__ float column_sum(const bf16* tile, int column) {
  float sum = 0;
#pragma unroll 8
  for (int row = 0; row < kTile; ++row) {
    const float2 x = tile_pair(tile, row, column & ~1);
    sum += column & 1 ? x.y : x.x;
  }
  return sum;
}

// What the keys say of this thread's bias, on top of what bias_adjoint left; all of it goes to the
// first biases where the chunk began at them.
__device__ void finish_bias(const Options& o, OptionStorage& s, const OwnBias& own, int sequence,
                            int parity, bool begins) {
  float bias = *own.at(s, parity);
  if (own.which == 0) bias += column_sum(own.layer == 0 ? s.dz : s.d_o, own.column);
  if (begins && own.speaks && own.which == 0)
    o.dinitial_biases[int64_t{sequence} * kBiases + own.index] += bias;
  *own.at(s, parity) = begins ? 0 : bias;
}

// Adds the dot products of a thread's two rows of a tile, over its columns, with `values`.
__device__ void add_row_dots(float (&sum)[2], const bf16* tile, const float* values, int row) {
  const int col = 2 * (threadIdx.x & 3);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 v = *reinterpret_cast<const float2*>(values + 8 * j + col);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 x = tile_pair(tile, row + 8 * i, 8 * j + col);
      sum[i] = fmaf(x.x, v.x, fmaf(x.y, v.y, sum[i]));
    }
  }
}

// Adjoint of the token's delta -> adjoints of the network's output and of the error. With options
// also what clamp_backward finds. `biases`, if not null: the adjoints of c2 and t2 after the chunk.
template <bool kOptions>
__device__ void delta_backward(const Params& p, const SharedStorage& s, const Stage& stage,
                               const OwnToken& own, int block, int row, int local, float (&d_o)[4],
                               float (&derr)[4], float (&dgain)[4], float (&dbias)[4],
                               const float (*biases)[kTile], const float* g, float2& kappa) {
  const int f = 4 * (threadIdx.x & 15);
  const float xhat[4] = {own.xhat.x, own.xhat.y, own.xhat.z, own.xhat.w};
  const float r = own.r;
  float ds[4], v[4], k[4];
  to_floats(ds, own.dd2);
  to_floats(v, own.v);
  to_floats(k, *reinterpret_cast<const uint2*>(reinterpret_cast<const char*>(stage.k) +
                                               swizzle_offset(row, f)));
#pragma unroll
  for (int source = 0; source < kRanks; ++source) {
    const float4 x = *reinterpret_cast<const float4*>(&s.part[source][local][f]);
    ds[0] += x.x, ds[1] += x.y, ds[2] += x.z, ds[3] += x.w;
  }
  if (kOptions && biases != nullptr) {  // c2' = .. - sum g_s D2_s, t2' = .. - sum p_s D2_s
#pragma unroll
    for (int i = 0; i < 4; ++i)
      ds[i] -= fmaf(g[row], biases[0][f + i], g[kTile + row] * biases[1][f + i]);
  }
  if (kOptions && p.common.options.clamps()) kappa = clamp_backward(p, stage, block, row, ds);
  if (kOptions && p.common.gain == nullptr) {  // the delta is the error, which is o + ..
#pragma unroll
    for (int i = 0; i < 4; ++i) d_o[i] = derr[i] = ds[i];
    return;
  }
  const float residual = p.common.residual ? 1 : 0;
  float error[4], gg[4], m1 = 0, m2 = 0, n1 = 0, n2 = 0, dd = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    error[i] = fmaf(s.gain[f + i], xhat[i], s.bias[f + i] - v[i]) + residual * k[i];
    gg[i] = error[i] * s.gain[f + i];
    ds[i] *= r;
    m1 += gg[i], m2 = fmaf(gg[i], xhat[i], m2);
    n1 += ds[i], n2 = fmaf(ds[i], xhat[i], n2);
    dd = fmaf(ds[i], gg[i], dd);
  }
  constexpr float kMean = 1.0f / kTile;
  m1 = token_sum(m1) * kMean, m2 = token_sum(m2) * kMean;
  n1 = token_sum(n1) * kMean, n2 = token_sum(n2) * kMean;
  // Mean of the delta's adjoint times the delta.
  dd = token_sum(dd) * kMean - m1 * n1 - m2 * n2;
  float dx[4], x1 = 0, x2 = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float dgg = ds[i] - n1 - xhat[i] * n2;
    derr[i] = dgg * s.gain[f + i];
    dgain[i] += fmaf(dgg, error[i], derr[i] * xhat[i]);
    dbias[i] += derr[i];
    dx[i] = derr[i] * s.gain[f + i] - ds[i] * m2 - gg[i] * n2;
    x1 += dx[i], x2 = fmaf(dx[i], xhat[i], x2);
  }
  x1 = token_sum(x1) * kMean, x2 = token_sum(x2) * kMean;
#pragma unroll
  for (int i = 0; i < 4; ++i) d_o[i] = r * (dx[i] - x1 - xhat[i] * (x2 + dd));
}

}  // namespace
}  // namespace mnemo::memory
