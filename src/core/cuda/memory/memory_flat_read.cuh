// The pieces of flat_read. Only memory_flat_read.cu includes this.
#pragma once

#include "src/core/cuda/memory/memory_flat.cuh"
#include "src/core/cuda/memory/memory_gates.cuh"

namespace mnemo::memory {
namespace {

struct LowStorage {
  alignas(1024) bf16 low[kTileElements];  // what dz's tile leaves of dz
};
struct NoStorage {};

// kAlpha: of a backward pass with norm, where the rule forgets. The norm makes <dz, z> zero for
// every token, so that of alpha's gradient, a sum of the shares of <dz, z>, little remains: there
// z's operands may not be rounded, nor dz, which is the sum of two tiles, nor what the reads add to
// dW and dS, which meet the chunks before.
template <bool kBackward, bool kOptions, bool kNorm, bool kAlpha>
struct SharedStorage : std::conditional_t<kAlpha, LowStorage, NoStorage> {
  static_assert(!kAlpha || (kBackward && kNorm));
  static constexpr int kUnused = 512;                // elements, so that tiles behind stay aligned
  alignas(1024) bf16 state[2][kTileElements];        // W, S [out, in]; then A_t dz_t, B_t dz_t
  bf16 initial[kOptions ? kTileElements : kUnused];  // W_0; then (1 - A_t) dz_t
  bf16 q[kTileElements], k[kTileElements];
  bf16 d[kTileElements];                         // v until the deltas are known
  bf16 dz[kBackward ? kTileElements : kUnused];  // dy, taken through the norm if there is one
  bf16 dy[kBackward && kNorm ? kTileElements : kUnused];
  bf16 mask[kBackward ? kTileElements : kUnused];  // G o Q K^T, then G o dZ D^T
  ChunkGates gates;
  float gain[kNorm ? kTile : 4], bias[kNorm ? kTile : 4];
  float norm_parts[2][kBackward && kNorm ? 4 * kTile : 4];     // dgain, dbias by warp
  float biases[3][kOptions ? kTile : 4];                       // c, its momentum, the first c
  float bias_parts[3][kBackward && kOptions ? 4 * kTile : 4];  // their gradients by warp
  uint64_t bar;
};

struct Params {
  CommonParams common;
  Rows y;         // reading: out; backward: dy
  Rows dq;        // backward only
  FlatKept kept;  // backward only
  FlatExtra extra;
};

__device__ void scale_rows(Frag& out, const Frag& x, const float (&scale)[2]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(x[i]);
    out[i] = pack(scale[i & 1] * v.x, scale[i & 1] * v.y);
  }
}

// The same of high + low, rounded once.
__device__ void scale_rows(Frag& out, const Frag& high, const Frag& low, const float (&scale)[2]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(high[i]), rest = unpack(low[i]);
    out[i] = pack(scale[i & 1] * (v.x + rest.x), scale[i & 1] * (v.y + rest.y));
  }
}

// x -> what its rounded values leave of it.
__device__ void remainder(Frag& low, const Frag& high, const Acc& x) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(high[i]);
    low[i] = pack(x[2 * i] - v.x, x[2 * i + 1] - v.y);
  }
}

// As a fragment, and with kLow what that leaves as a second one.
template <bool kLow>
__device__ void store_parts(bf16* tile, bf16* low_tile, const Acc& x) {
  Frag high;
  to_frag(high, x);
  store_fragment(tile, high);
  if constexpr (kLow) {
    Frag low;
    remainder(low, high, x);
    store_fragment(low_tile, low);
  }
}

// Sums over this thread's rows of a o b, by all four lanes of a row.
__device__ void row_dots(float (&sum)[2], const Acc& a, const Frag& b) {
  sum[0] = sum[1] = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(b[i]);
    sum[i & 1] = fmaf(a[2 * i], v.x, fmaf(a[2 * i + 1], v.y, sum[i & 1]));
  }
  sum[0] = quad_sum(sum[0]), sum[1] = quad_sum(sum[1]);
}

// x -> gain x + bias, column by column.
__device__ void scale_columns(Acc& x, const float* gain, const float* bias) {
  const int col = 2 * (threadIdx.x & 3);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 g = *reinterpret_cast<const float2*>(gain + 8 * j + col);
    const float2 b = *reinterpret_cast<const float2*>(bias + 8 * j + col);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      x[4 * j + 2 * i] = fmaf(g.x, x[4 * j + 2 * i], b.x);
      x[4 * j + 2 * i + 1] = fmaf(g.y, x[4 * j + 2 * i + 1], b.y);
    }
  }
}

// x += y from a tile's rows, in place.
__device__ void add_rows(Acc& x, const bf16* tile, float scale) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 v = tile_pair(tile, row + 8 * i, 8 * j + col);
      x[4 * j + 2 * i] = fmaf(scale, v.x, x[4 * j + 2 * i]);
      x[4 * j + 2 * i + 1] = fmaf(scale, v.y, x[4 * j + 2 * i + 1]);
    }
  }
}

// Factors of what this thread's two rows read through W, S and W_0.
struct RowFactors {
  float decay[2], push[2], fade[2];  // A_t, B_t, 1 - A_t or 0
};

// A Q W^T + B Q S^T + (1 - A) Q W_0^T, scaled in fp32.
template <bool kOptions, typename Storage>
__device__ void read_unrounded(Acc& z, const Storage& s, const RowFactors& factors) {
  Acc x;
  wgmma_fence();
  product<1, false, false>(z, s.q, s.state[0], false);
  product<1, false, false>(x, s.q, s.state[1], false);
  wgmma_commit();
  wgmma_wait<0>();
  settle(z), settle(x);
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int k = (i >> 1) & 1;
    z[i] = fmaf(factors.decay[k], z[i], factors.push[k] * x[i]);
  }
  if constexpr (kOptions) {
    wgmma_fence();
    product<1, false, false>(x, s.q, s.initial, false);
    wgmma_commit();
    wgmma_wait<0>();
    settle(x);
#pragma unroll
    for (int i = 0; i < 32; ++i) z[i] = fmaf(factors.fade[(i >> 1) & 1], x[i], z[i]);
  }
}

// Z = A Q W^T + B Q S^T + (1 - A) Q W_0^T - (G o Q K^T) D. Rules with options always go through
// W_0, with zeros where nothing forgets towards it. With kAlpha rows are scaled after the products.
template <bool kOptions, bool kAlpha, typename Storage>
__device__ void read_state(Acc& z, const Storage& s, const Frag& masked, const RowFactors& factors,
                           bool biased) {
  if constexpr (kAlpha) {
    read_unrounded<kOptions>(z, s, factors);
    wgmma_fence();
  } else {
    Frag q, scaled, faded;
    load_frag(q, s.q);
    scale_rows(scaled, q, factors.decay);
    if constexpr (kOptions) scale_rows(faded, q, factors.fade);
    scale_rows(q, q, factors.push);
    wgmma_fence();
    product<1, false>(z, scaled, s.state[0], false);
    product<1, false>(z, q, s.state[1], true);
    if constexpr (kOptions) product<1, false>(z, faded, s.initial, true);
  }
  product<-1, true>(z, masked, s.d, true);
  wgmma_commit();
  wgmma_wait<0>();
  settle(z);
  if constexpr (kOptions) {
    if (!biased) return;
    add_columns(z, factors.decay, s.biases[0]);
    add_columns(z, factors.push, s.biases[1]);
    add_columns(z, factors.fade, s.biases[2]);
  }
}

// dy back through the norm of the reads z, into dz, with the norm's gradients.
template <bool kAlpha, typename Storage>
__device__ void norm_backward(const Params& p, Storage& s, int block, Acc& z) {
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
  float r[2];
  normalize(z, p.common.epsilon, r);
  Acc dz, along;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 dy = tile_pair(s.dy, row + 8 * i, 8 * j + col);
      dz[4 * j + 2 * i] = dy.x, dz[4 * j + 2 * i + 1] = dy.y;
    }
  }
  column_sums(dz, s.norm_parts[1]);
#pragma unroll
  for (int i = 0; i < 32; ++i) along[i] = dz[i] * z[i];
  column_sums(along, s.norm_parts[0]);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 gain = *reinterpret_cast<const float2*>(s.gain + 8 * j + col);
#pragma unroll
    for (int i = 0; i < 2; ++i) dz[4 * j + 2 * i] *= gain.x, dz[4 * j + 2 * i + 1] *= gain.y;
  }
  project(dz, z, r);
  Frag frag;
  to_frag(frag, dz);
  store_frag(s.dz, frag);
  if constexpr (kAlpha) {
    Frag low;
    remainder(low, frag, dz);
    store_frag(s.low, low);
  }
  fence_async();
  __syncthreads();
  const float* parts = s.norm_parts[thread / kTile] + thread % kTile;
  p.kept.floats(block, flat_kept::kDgain)[thread] =
      parts[0] + parts[kTile] + parts[2 * kTile] + parts[3 * kTile];
}

// The biases' part of the reads' adjoint: of A and B, added to da and db, and by warp of the
// biases.
template <bool kAlpha, typename Storage>
__device__ void biases_backward(const Options& o, Storage& s, const Frag& dz,
                                const RowFactors& factors, float (&da)[2], float (&db)[2]) {
  const int col = 2 * (threadIdx.x & 3);
  Acc x;
  float along[3][2] = {};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float2 v = unpack(dz[2 * j + i]);
      if constexpr (kAlpha) {
        const int lane = threadIdx.x & 31, row = 16 * (threadIdx.x >> 5) + lane / 4 + 8 * i;
        const float2 low = tile_pair(s.low, row, 8 * j + col);
        v.x += low.x, v.y += low.y;
      }
      x[4 * j + 2 * i] = v.x, x[4 * j + 2 * i + 1] = v.y;
#pragma unroll
      for (int which = 0; which < 3; ++which) {
        const float2 c = *reinterpret_cast<const float2*>(&s.biases[which][8 * j + col]);
        along[which][i] = fmaf(v.x, c.x, fmaf(v.y, c.y, along[which][i]));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    da[i] += quad_sum(along[0][i]);
    db[i] += quad_sum(along[1][i]);
    const float first = quad_sum(along[2][i]);
    if (o.towards_initial) da[i] -= first;
  }
  scaled_column_sums(x, factors.decay, s.bias_parts[0]);
  scaled_column_sums(x, factors.push, s.bias_parts[1]);
  scaled_column_sums(x, factors.fade, s.bias_parts[2]);
}

// The reads' adjoint from dz. r = Q K^T; the mask's tile holds G o r.
template <bool kOptions, bool kAlpha, typename Storage>
__device__ void reads_backward(const Params& p, Storage& s, int block, const Acc& r,
                               const RowFactors& factors, Acc& dq) {
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
  Acc t, zs, dd;
  wgmma_fence();
  product<1, false, false>(t, s.dz, s.d, false);
  if constexpr (kAlpha) product<1, false, false>(t, s.low, s.d, true);
  product<-1, true, true>(dd, s.mask, s.dz, false);
  wgmma_commit();
  product<1, false, true>(dq, s.dz, s.state[0], false);
  product<1, false, true>(zs, s.dz, s.state[1], false);
  if constexpr (kAlpha) {
    product<1, false, true>(dq, s.low, s.state[0], true);
    product<1, false, true>(zs, s.low, s.state[1], true);
  }
  wgmma_commit();
  wgmma_wait<1>();
  settle(t), settle(dd);
  store_fragment(p.kept.tile(block, flat_kept::kDd), dd);
  float4* dg = reinterpret_cast<float4*>(p.kept.tile(block, flat_kept::kDg)) + thread;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    dg[128 * j] = make_float4(-r[4 * j] * t[4 * j], -r[4 * j + 1] * t[4 * j + 1],
                              -r[4 * j + 2] * t[4 * j + 2], -r[4 * j + 3] * t[4 * j + 3]);
  }
  Frag m, f, scaled;
  mask(m, t, s.gates, row, col);
  wgmma_wait<0>();
  settle(dq), settle(zs);
  Acc zi;  // dZ W_0
  if constexpr (kOptions) {
    wgmma_fence();
    product<1, false, true>(zi, s.dz, s.initial, false);
    if constexpr (kAlpha) product<1, false, true>(zi, s.low, s.initial, true);
    wgmma_commit();
    wgmma_wait<0>();
    settle(zi);
  }
  __syncthreads();  // mask and state have been read
  store_frag(s.mask, m);
  load_frag(f, s.dz);
  Frag low;
  if constexpr (kAlpha) load_frag(low, s.low);
  const auto store_scaled = [&](bf16* tile, const float(&scale)[2]) {
    if constexpr (kAlpha) {
      scale_rows(scaled, f, low, scale);
    } else {
      scale_rows(scaled, f, scale);
    }
    store_frag(tile, scaled);
  };
  store_scaled(s.state[0], factors.decay);
  store_scaled(s.state[1], factors.push);
  if constexpr (kOptions) store_scaled(s.initial, factors.fade);
  fence_async();
  load_frag(f, s.q);
  float da[2], db[2];
  row_dots(da, dq, f);
  row_dots(db, zs, f);
  if constexpr (kOptions) {
    float along[2];
    row_dots(along, zi, f);
    if (p.common.options.towards_initial) da[0] -= along[0], da[1] -= along[1];
    if (p.common.options.biases) {
      load_frag(f, s.dz);
      biases_backward<kAlpha>(p.common.options, s, f, factors, da, db);
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if ((lane & 3) == 0) {
      p.kept.floats(block, flat_kept::kDa)[row + 8 * i] = da[i];
      p.kept.floats(block, flat_kept::kDb)[row + 8 * i] = db[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int k = (i >> 1) & 1;
    dq[i] = fmaf(factors.decay[k], dq[i], factors.push[k] * zs[i]);
    if constexpr (kOptions) dq[i] = fmaf(factors.fade[k], zi[i], dq[i]);
  }
  __syncthreads();
  wgmma_fence();
  product<-1, true>(dq, m, s.k, true);
  product<-1, true, true>(dd, s.mask, s.q, false);
  wgmma_commit();
  product<1, true, true>(t, s.state[0], s.q, false);
  product<1, true, true>(zs, s.state[1], s.q, false);
  if constexpr (kOptions) product<1, true, true>(zi, s.initial, s.q, false);
  wgmma_commit();
  wgmma_wait<0>();
  settle(dq), settle(dd), settle(t), settle(zs);
  store_fragment(p.kept.tile(block, flat_kept::kDk), dd);
  store_parts<kAlpha>(p.kept.tile(block, flat_kept::kDw), p.extra.tile(block, flat_extra::kDwLow),
                      t);
  store_parts<kAlpha>(p.kept.tile(block, flat_kept::kDs), p.extra.tile(block, flat_extra::kDsLow),
                      zs);
  if constexpr (kOptions) {
    settle(zi);
    store_fragment(p.extra.tile(block, flat_extra::kDinitial), zi);
    if (p.common.options.biases) {
      for (int i = thread; i < 3 * kTile; i += 128) {
        p.kept.floats(block, flat_kept::kDbiases)[i] =
            sum_warps(s.bias_parts[i / kTile] + i % kTile);
      }
    }
  }
}

// The keys' normalised outputs and inverse deviations, for the norm's second derivative.
__device__ void keep_norm(const Params& p, int block, const Acc& xhat, const float (&r)[2]) {
  const int thread = threadIdx.x, lane = thread & 31, row = 16 * (thread >> 5) + lane / 4;
  float4* to = reinterpret_cast<float4*>(p.extra.tile(block, flat_extra::kXhat)) + thread;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    to[128 * j] = make_float4(xhat[4 * j], xhat[4 * j + 1], xhat[4 * j + 2], xhat[4 * j + 3]);
  }
  if ((lane & 3) != 0) return;
  p.kept.floats(block, flat_kept::kInvDeviation)[row] = r[0];
  p.kept.floats(block, flat_kept::kInvDeviation)[row + 8] = r[1];
}

}  // namespace
}  // namespace mnemo::memory
