// The pieces of narrow_adjoint's step. Only memory_narrow_adjoint.cu includes this.
#pragma once

#include "src/core/cuda/memory/memory_narrow.cuh"
#include "src/core/cuda/memory/memory_slice.cuh"

namespace mnemo::memory {
namespace {

constexpr int kRanks = 2;
constexpr int kThreads = 512;
constexpr uint32_t kPartBytes = 2 * kNarrow * kTile * 4;  // from the other CTA, two slices
constexpr int kLanes = 16;                                // a token
constexpr int kImages = 4;                                // H, D1, X, dZ of a slice

struct Stage {
  bf16 weights[2][2][kTileElements];         // by slice: W1, W2^T [hidden, f]
  bf16 images[2][kImages][kNarrowElements];  // by slice, [token, hidden]
  bf16 d2[kNarrowElements], dz2[kNarrowElements];
  bf16 k[kNarrowElements], q[kNarrowElements];
};
constexpr uint32_t kStageBytes = sizeof(Stage::weights) + sizeof(Stage::images) + 2 * kNarrowBytes;

struct SharedStorage {
  alignas(1024) Stage stage[2];
  bf16 adjoint[2][2][2][kTileElements];  // [slice][layer][W, S], [hidden, f]
  bf16 du[2][kNarrowElements];           // [token, hidden]
  bf16 dz[2][kNarrowElements];           // [token, hidden], then the slice's share of dK
  bf16 d_o[kNarrowElements];             // [token, f]
  uint4 dh[2][128];                      // from the upper layer to the lower, register order
  Sums part[2][2 * kRanks];              // partial dD2 by parity and hidden slice
  float coefficients[2][kCoefficients];
  float decay[2][2 * kNarrow];  // A_t, B_t
  uint64_t stage_bar[2], part_bar[2];
};

struct Params {
  CommonParams common;
  MemoryScanCarry in, out;
  Rows dv;
  NarrowKept kept;
  float* norm_parts;
};

__device__ void prefetch(const Params& p, SharedStorage& s, int sequence, int rank, int step) {
  const Segment& seg = p.common.segment;
  const int chunk = seg.chunks - 1 - step, block = sequence * seg.chunks + chunk, slot = step & 1;
  const int thread = threadIdx.x;
  Stage& stage = s.stage[slot];
  const auto tile = [&](int index) { return p.kept.tile(block, index); };
  if (thread == 0) {
    uint64_t* bar = &s.stage_bar[slot];
    const bf16* states = p.common.states + int64_t{block} * kStateElements;
    mbar_expect(bar, kStageBytes);
    for (int i = 0; i < 2; ++i) {
      const int slice = 2 * rank + i;
      bulk_load(stage.weights[i], states + 4 * slice * kTileElements, 2 * kTileBytes, bar);
      bulk_load(stage.images[i], tile(narrow_kept::kPerSlice * slice), kImages * kNarrowBytes, bar);
    }
    bulk_load(stage.d2, tile(narrow_kept::kD2), 2 * kNarrowBytes, bar);
  } else if (thread == 288) {  // what the registers will take
    for (int i = 0; i < 2; ++i) {
      const int slice = 2 * rank + i;
      bulk_prefetch(
          p.common.states + int64_t{block} * kStateElements + (4 * slice + 2) * kTileElements,
          2 * kTileBytes);
      bulk_prefetch(tile(narrow_kept::kPerSlice * slice + kImages), kImages * kNarrowBytes);
    }
    bulk_prefetch(tile(narrow_kept::kDd2), kNarrowBytes);
    bulk_prefetch(tile(narrow_kept::kXhat), 2 * kNarrowBytes);
  }
  const int count = seg.count(chunk);
  const int64_t first = seg.first(chunk);
  if (thread < 128) {
    copy_narrow_async(stage.k, p.common.k.at(seg, sequence, first), p.common.k.token_stride, count,
                      thread);
  } else if (thread < 256) {
    copy_narrow_async(stage.q, p.common.q.at(seg, sequence, first), p.common.q.token_stride, count,
                      thread - 128);
  } else if (thread >= 320 && thread < 320 + kCoefficients / 4) {
    const int at = 4 * (thread - 320);
    copy_async(smem_address(&s.coefficients[slot][at]),
               p.common.coefficients + int64_t{block} * kCoefficients + at, true);
  } else if (thread >= 384 && thread < 384 + kNarrow / 2) {
    const int at = 4 * (thread - 384);
    copy_async(smem_address(&s.decay[slot][at]), p.kept.floats(block, narrow_kept::kA) + at, true);
  }
  copy_commit();
}

using Row = Features<kTile / kLanes>;

// What a token's lanes need besides the sums.
struct Token {
  Row xhat, v, dd2;
  float r;

  __device__ Token(const Params& p, int sequence, int block, const TokenLane<kLanes>& me,
                   int64_t token, bool valid) {
    load_floats(xhat, reinterpret_cast<const float*>(p.kept.tile(block, narrow_kept::kXhat)) +
                          me.token * kTile + me.f);
    r = p.kept.floats(block, narrow_kept::kInvDeviation)[me.token];
    load_features(dd2, p.kept.tile(block, narrow_kept::kDd2), me.token, me.f);
    // Any row will do past the end, where nothing depends on it but must be finite.
    load_row(v, p.common.v.at(p.common.segment, sequence, token) + me.f);
#pragma unroll
    for (float& x : v) x = valid ? x : 0;
  }
};

struct NormGradient {
  Row gain, bias;
};

// Adjoint of the token's delta -> adjoints of the network's output and of the error. `sums` is
// the delta's adjoint but for the reads' part.
__device__ void delta_backward(const Token& t, const Row& key, const Row& sums, const Row& gain,
                               const Row& bias, Row& d_o, Row& derr, NormGradient& out) {
  constexpr int n = kTile / kLanes;
  constexpr float kMean = 1.0f / kTile;
  Row ds, error, gg;
  float m1 = 0, m2 = 0, n1 = 0, n2 = 0, dd = 0;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    ds[i] = t.r * (t.dd2[i] + sums[i]);
    error[i] = fmaf(gain[i], t.xhat[i], bias[i] - t.v[i]) + key[i];
    gg[i] = error[i] * gain[i];
    m1 += gg[i], m2 = fmaf(gg[i], t.xhat[i], m2);
    n1 += ds[i], n2 = fmaf(ds[i], t.xhat[i], n2);
    dd = fmaf(ds[i], gg[i], dd);
  }
  m1 = token_sum<kLanes>(m1) * kMean, m2 = token_sum<kLanes>(m2) * kMean;
  n1 = token_sum<kLanes>(n1) * kMean, n2 = token_sum<kLanes>(n2) * kMean;
  // Mean of the delta's adjoint times the delta.
  dd = token_sum<kLanes>(dd) * kMean - m1 * n1 - m2 * n2;
  Row dx;
  float x1 = 0, x2 = 0;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const float dgg = ds[i] - n1 - t.xhat[i] * n2;
    derr[i] = dgg * gain[i];
    out.gain[i] = fmaf(dgg, error[i], derr[i] * t.xhat[i]);
    out.bias[i] = derr[i];
    dx[i] = derr[i] * gain[i] - ds[i] * m2 - gg[i] * n2;
    x1 += dx[i], x2 = fmaf(dx[i], t.xhat[i], x2);
  }
  x1 = token_sum<kLanes>(x1) * kMean, x2 = token_sum<kLanes>(x2) * kMean + dd;
#pragma unroll
  for (int i = 0; i < n; ++i) d_o[i] = t.r * (dx[i] - x1 - t.xhat[i] * x2);
}

// x, y = In dW^T, In dS^T: x = reads - g x - p y by tokens, F's adjoint; the dots with F give dg,
// dp.
__device__ void factor_adjoint(Part& x, const Part& y, const bf16* factor, const Columns& reads,
                               const float* g, float* dg, float* dp) {
  Columns f;
  PerToken sums = {}, sums_p = {}, gs, ps;
  Part r;
  load_transposed(f, factor);
  add_dots(sums, x, f);
  add_dots(sums_p, y, f);
  store_dots(dg, sums);
  store_dots(dp, sums_p);
  load_per_token(gs, g), load_per_token(ps, g + kTile);
  to_part(r, reads);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int t = 2 * (i >> 2) + (i & 1);
    x[i] = fmaf(-gs[t], x[i], fmaf(-ps[t], y[i], r[i]));
  }
}

// x, y = F dW, F dS: x = -g x - p y by tokens, In's adjoint.
__device__ void input_adjoint(Part& x, const Part& y, const float* g) {
  PerToken gs, ps;
  load_per_token(gs, g), load_per_token(ps, g + kTile);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int t = 2 * (i >> 2) + (i & 1);
    x[i] = -fmaf(gs[t], x[i], ps[t] * y[i]);
  }
}

// W' = A W + B S, S' = E S taken back, and the adjoints of A, B, E.
__device__ void decay_adjoint(Acc& dw, Acc& ds, const bf16* weights, const Frag& momenta,
                              const float* g, float4* out) {
  const float a = g[128], b = g[129], e = g[130];
  float dots[3] = {};
  Frag w;
  load_frag(w, weights);
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 x = unpack(w[i]), y = unpack(momenta[i]);
    dots[0] = fmaf(dw[2 * i], x.x, fmaf(dw[2 * i + 1], x.y, dots[0]));
    dots[1] = fmaf(dw[2 * i], y.x, fmaf(dw[2 * i + 1], y.y, dots[1]));
    dots[2] = fmaf(ds[2 * i], y.x, fmaf(ds[2 * i + 1], y.y, dots[2]));
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) dots[i] = warp_sum(dots[i]);
  if ((threadIdx.x & 31) == 0) *out = make_float4(dots[0], dots[1], dots[2], 0);
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    ds[i] = fmaf(b, dw[i], e * ds[i]);
    dw[i] *= a;
  }
}

// A tile of the state store as a fragment: lanes in pairs fetch eight bytes each of one row and
// swap halves.
__device__ void load_stored(Frag& frag, const bf16* tile) {
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
  const bool odd = lane & 1;
  const char* from = reinterpret_cast<const char*>(tile);
  const int row = 16 * warp + lane / 4 + 8 * odd, col = 2 * (lane & 2);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const uint2 v = *reinterpret_cast<const uint2*>(from + swizzle_offset(row, 8 * j + col));
    frag[2 * j] = v.x, frag[2 * j + 1] = v.y;
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const uint32_t given = __shfl_xor_sync(0xffffffffu, odd ? frag[2 * j] : frag[2 * j + 1], 1);
    frag[2 * j] = odd ? given : frag[2 * j];
    frag[2 * j + 1] = odd ? frag[2 * j + 1] : given;
  }
}

// The reads' part: dW += (A x)^T y, dS += (B x)^T y. Asynchronous.
__device__ void add_reads(Acc& dw, Acc& ds, const bf16* x_tile, const bf16* y, const float* decay) {
  Columns c, ax, bx;
  Part x;
  PerToken scale;
  load_transposed(c, x_tile);
  to_part(x, c);
  load_per_token(scale, decay), to_columns(ax, x, scale);
  load_per_token(scale, decay + kNarrow), to_columns(bx, x, scale);
  wgmma_fence();
  outer<1>(dw, ax, y);
  outer<1>(ds, bx, y);
  wgmma_commit();
  wgmma_wait<0>();
  settle(dw), settle(ds);
}

}  // namespace
}  // namespace mnemo::memory
