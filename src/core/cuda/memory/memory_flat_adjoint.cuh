// The pieces of flat_adjoint's step. Only memory_flat_adjoint.cu includes this.
#pragma once

#include "src/core/cuda/memory/memory_flat.cuh"

namespace mnemo::memory {
namespace {

// Adjoints of the biases: of c by threads 0 .. 63, of its momentum by the others.
struct BiasStorage {
  float adjoint[2][2][kTile];  // this chunk's and the next one's
  float parts[4 * kTile];      // sums of dO by warp
};

template <bool kOptions, bool kNorm>
struct SharedStorage {
  alignas(1024) bf16 state[2][2][kTileElements];  // W, S [out, in], this chunk's and the next one's
  bf16 k[2][kTileElements];
  bf16 adjoint[2][kTileElements];  // dW, dS [out, in]
  bf16 d_o[kTileElements];         // [token, out]
  bf16 dk[kTileElements], dv[kTileElements];
  bf16 v[2][kNorm ? kTileElements : 512];
  float coefficients[2][kCoefficients];
  float gain[kNorm ? kTile : 4], bias[kNorm ? kTile : 4];
  // A thread's sums over tokens, of its sixteen columns: dgain, dbias.
  float dnorm[2][kNorm ? 16 : 1][128];
  std::conditional_t<kOptions, BiasStorage, char> biases;
  uint64_t bars[2];
};

struct Params {
  CommonParams common;
  MemoryScanCarry in, out;
  Rows dk, dv;
  FlatKept kept;
  FlatExtra extra;
  float* norm_parts;  // [sequences, kFlatNormParts, 2, 64]
};

template <bool kOptions, bool kNorm>
__device__ void prefetch(const Params& p, SharedStorage<kOptions, kNorm>& s, int sequence,
                         int step) {
  const Segment& seg = p.common.segment;
  const int chunk = seg.chunks - 1 - step, block = sequence * seg.chunks + chunk, slot = step & 1;
  const int thread = threadIdx.x;
  if (thread == 0) {
    mbar_expect(&s.bars[slot], 2 * kTileBytes);
    bulk_load(s.state[slot], p.common.states + int64_t{block} * kFlatStateElements, 2 * kTileBytes,
              &s.bars[slot]);
  } else if (thread == 32) {  // what the registers will take
    bulk_prefetch(p.kept.tile(block, flat_kept::kD), 5 * kTileBytes);
  }
  copy_rows_async(s.k[slot], p.common.k.at(seg, sequence, seg.first(chunk)),
                  p.common.k.token_stride, seg.count(chunk), thread);
  if constexpr (kNorm) {
    copy_rows_async(s.v[slot], p.common.v.at(seg, sequence, seg.first(chunk)),
                    p.common.v.token_stride, seg.count(chunk), thread);
  }
  if (thread < kCoefficients / 4) {
    copy_async(smem_address(&s.coefficients[slot][4 * thread]),
               p.common.coefficients + int64_t{block} * kCoefficients + 4 * thread, true);
  }
  copy_commit();
}

// W' = A W + B S, S' = E S taken back with the reads' part, and the adjoints of A, B, E, to which
// `dots` has added something already.
__device__ void decay_adjoint(Acc& dw, Acc& ds, const bf16 (&state)[2][kTileElements],
                              const Frag& reads_w, const Frag& reads_s, const float* g,
                              float (&dots)[3], float4* out) {
  const float a = g[128], b = g[129], e = g[130];
  Frag w, m;
  load_frag(w, state[0]), load_frag(m, state[1]);
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 x = unpack(w[i]), y = unpack(m[i]), rw = unpack(reads_w[i]);
    const float2 rs = unpack(reads_s[i]);
    dots[0] = fmaf(dw[2 * i], x.x, fmaf(dw[2 * i + 1], x.y, dots[0]));
    dots[1] = fmaf(dw[2 * i], y.x, fmaf(dw[2 * i + 1], y.y, dots[1]));
    dots[2] = fmaf(ds[2 * i], y.x, fmaf(ds[2 * i + 1], y.y, dots[2]));
    ds[2 * i] = fmaf(b, dw[2 * i], fmaf(e, ds[2 * i], rs.x));
    ds[2 * i + 1] = fmaf(b, dw[2 * i + 1], fmaf(e, ds[2 * i + 1], rs.y));
    dw[2 * i] = fmaf(a, dw[2 * i], rw.x);
    dw[2 * i + 1] = fmaf(a, dw[2 * i + 1], rw.y);
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) {
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2)
      dots[i] += __shfl_xor_sync(0xffffffffu, dots[i], lanes);
  }
  if ((threadIdx.x & 31) == 0) *out = make_float4(dots[0], dots[1], dots[2], 0);
}

// x += the fragment at `tile`.
__device__ void add_fragment(Acc& x, const bf16* tile) {
  Frag frag;
  load_fragment(frag, tile);
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(frag[i]);
    x[2 * i] += v.x, x[2 * i + 1] += v.y;
  }
}

// dW_0 gets the share of this chunk's end, (1 - A_b) dW', and of its reads; this thread's part of
// <dW', W_0> comes back. W_0 is rounded as the chunk's W is, so that the two cancel where the chunk
// began at W_0.
__device__ float initial_adjoint(const Params& p, int sequence, int block, float scale,
                                 const Acc& dw) {
  const Options& o = p.common.options;
  const float4* w0 = flat_initial_at(o.initial, sequence % p.common.segment.heads);
  float4* to = flat_initial_at(o.dinitial, sequence);
  Frag reads;
  load_fragment(reads, p.extra.tile(block, flat_extra::kDinitial));
  float dot = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4 w = w0[128 * j];
    const float2 lo = unpack(reads[2 * j]), hi = unpack(reads[2 * j + 1]);
    const float* x = &dw[4 * j];
    const float2 w01 = unpack(pack(w.x, w.y)), w23 = unpack(pack(w.z, w.w));
    dot = fmaf(x[0], w01.x, fmaf(x[1], w01.y, fmaf(x[2], w23.x, fmaf(x[3], w23.y, dot))));
    const float sum[4] = {fmaf(scale, x[0], lo.x), fmaf(scale, x[1], lo.y), fmaf(scale, x[2], hi.x),
                          fmaf(scale, x[3], hi.y)};
    add_floats(reinterpret_cast<float*>(to + 128 * j), sum);
  }
  return dot;
}

// The chunk began at W_0: all of dW goes there, nothing to the chunk before.
__device__ void reset_adjoint(const Options& o, int sequence, Acc& dw, Acc& ds) {
  float4* to = flat_initial_at(o.dinitial, sequence);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float x[4] = {dw[4 * j], dw[4 * j + 1], dw[4 * j + 2], dw[4 * j + 3]};
    add_floats(reinterpret_cast<float*>(to + 128 * j), x);
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) dw[i] = ds[i] = 0;
}

// What the end of a chunk and the reads say of this thread's bias; `adjoint` is that after the
// chunk, of c and of its momentum. Adds to the dots; returns the adjoint before the chunk, but for
// what the keys say.
__device__ float bias_adjoint(const Params& p, const float (&adjoint)[2][kTile], int sequence,
                              int block, const float* g, float (&dots)[3]) {
  const Options& o = p.common.options;
  const int which = threadIdx.x / kTile, f = threadIdx.x % kTile;
  const float* states = o.bias_states + int64_t{block} * (2 * kTile);
  const float* reads = p.kept.floats(block, flat_kept::kDbiases);
  const float a = g[128], b = g[129], e = g[130], dc = adjoint[0][f], dt = adjoint[1][f];
  const float c = states[f], t = states[kTile + f];
  if (which == 1) {
    dots[2] = fmaf(dt, t, dots[2]);
    return fmaf(b, dc, fmaf(e, dt, reads[kTile + f]));
  }
  dots[0] = fmaf(dc, c, dots[0]);
  dots[1] = fmaf(dc, t, dots[1]);
  if (o.towards_initial) {
    dots[0] = fmaf(-dc, o.initial_c1[sequence % p.common.segment.heads * kTile + f], dots[0]);
    o.dinitial_biases[sequence * kTile + f] += fmaf(1 - a, dc, reads[2 * kTile + f]);
  }
  return fmaf(a, dc, reads[f]);
}

// The clamp's share of the deltas' adjoint x (Options); key_scale is what the keys are multiplied
// with for its share of dk.
__device__ void clamp_adjoint(const Options& o, int block, Acc& x, const Frag& d, const bf16* k,
                              float (&key_scale)[2]) {
  const int lane = threadIdx.x & 31, row = 16 * (threadIdx.x >> 5) + lane / 4;
  float k2[2], d2[2], along[2] = {};
  Frag keys;
  load_frag(keys, k);
  row_squares(k2, keys);
  row_squares(d2, d);
  if (o.biases) k2[0] += 1, k2[1] += 1;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(d[i]);
    along[i & 1] = fmaf(x[2 * i], v.x, fmaf(x[2 * i + 1], v.y, along[i & 1]));
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float kappa =
        -quad_sum(along[i]) * o.clamp[int64_t{block} * kClampFloats + kTile + row + 8 * i];
    key_scale[i] = kappa * d2[i];
    k2[i] *= kappa;
  }
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(d[i]);
    x[2 * i] = fmaf(k2[i & 1], v.x, x[2 * i]);
    x[2 * i + 1] = fmaf(k2[i & 1], v.y, x[2 * i + 1]);
  }
}

// x: the deltas' adjoint -> the outputs'. The errors' goes to dv, and with the residual is added to
// dk; the norm's gradients to s.dnorm.
template <typename Storage>
__device__ void norm_adjoint(const Params& p, Storage& s, int block, int slot, Acc& x, Acc& dk,
                             Frag& dv) {
  const int thread = threadIdx.x, lane = thread & 31, col = 2 * (lane & 3);
  const int row = 16 * (thread >> 5) + lane / 4;
  const float residual = p.common.residual ? 1 : 0;
  Acc xhat;
  const float4* from =
      reinterpret_cast<const float4*>(p.extra.tile(block, flat_extra::kXhat)) + thread;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4 v = from[128 * j];
    xhat[4 * j] = v.x, xhat[4 * j + 1] = v.y, xhat[4 * j + 2] = v.z, xhat[4 * j + 3] = v.w;
  }
  constexpr float kMean = 1.0f / kTile;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float r = p.kept.floats(block, flat_kept::kInvDeviation)[row + 8 * i];
    const auto error = [&](int j, const float2& gain) {
      const float2 key = tile_pair(s.k[slot], row + 8 * i, 8 * j + col);
      const float2 value = tile_pair(s.v[slot], row + 8 * i, 8 * j + col);
      const float2 bias = *reinterpret_cast<const float2*>(s.bias + 8 * j + col);
      return make_float2(
          fmaf(gain.x, xhat[4 * j + 2 * i], bias.x) + fmaf(residual, key.x, -value.x),
          fmaf(gain.y, xhat[4 * j + 2 * i + 1], bias.y) + fmaf(residual, key.y, -value.y));
    };
    float m1 = 0, m2 = 0, n1 = 0, n2 = 0, dd = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 gain = *reinterpret_cast<const float2*>(s.gain + 8 * j + col);
      const float2 err = error(j, gain);
      const float gg[2] = {gain.x * err.x, gain.y * err.y};
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int at = 4 * j + 2 * i + e;
        x[at] *= r;
        m1 += gg[e], m2 = fmaf(gg[e], xhat[at], m2);
        n1 += x[at], n2 = fmaf(x[at], xhat[at], n2);
        dd = fmaf(x[at], gg[e], dd);
      }
    }
    m1 = quad_sum(m1) * kMean, m2 = quad_sum(m2) * kMean;
    n1 = quad_sum(n1) * kMean, n2 = quad_sum(n2) * kMean;
    // Mean of the delta's adjoint times the delta.
    dd = quad_sum(dd) * kMean - m1 * n1 - m2 * n2;
    float x1 = 0, x2 = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 gain = *reinterpret_cast<const float2*>(s.gain + 8 * j + col);
      const float2 err = error(j, gain);
      const float gains[2] = {gain.x, gain.y}, errors[2] = {err.x, err.y};
      float derr[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int at = 4 * j + 2 * i + e;
        const float dx = x[at] - n1 - xhat[at] * n2;
        derr[e] = dx * gains[e];
        s.dnorm[0][2 * j + e][thread] += fmaf(dx, errors[e], derr[e] * xhat[at]);
        s.dnorm[1][2 * j + e][thread] += derr[e];
        dk[at] = fmaf(residual, derr[e], dk[at]);
        x[at] = derr[e] * gains[e] - x[at] * m2 - gains[e] * errors[e] * n2;
        x1 += x[at], x2 = fmaf(x[at], xhat[at], x2);
      }
      dv[2 * j + i] = pack(-derr[0], -derr[1]);
    }
    x1 = quad_sum(x1) * kMean, x2 = quad_sum(x2) * kMean;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int at = 4 * j + 2 * i + e;
        x[at] = r * (x[at] - x1 - xhat[at] * (x2 + dd));
      }
    }
  }
}

// This thread's sums of the norm's gradients, from the segments behind or for those before.
template <typename F>
__device__ void for_norm_parts(const Params& p, int sequence, const F& f) {
  const int part = threadIdx.x / 4, col = 2 * (threadIdx.x & 3);
  float* parts = p.norm_parts + (int64_t{sequence} * kFlatNormParts + part) * 2 * kTile + col;
#pragma unroll
  for (int which = 0; which < 2; ++which) {
#pragma unroll
    for (int i = 0; i < 16; ++i) f(which, i, parts[which * kTile + 8 * (i / 2) + i % 2]);
  }
}

}  // namespace
}  // namespace mnemo::memory
