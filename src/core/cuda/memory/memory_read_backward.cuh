// The reads' adjoint, in parallel over blocks.
//
// One warpgroup a block: dy back through the layer norm, then hidden slice by slice dX, through the
// activation to dZ, and from it this slice's share of dq, of the masked product's adjoint, of the
// state's and the key side's adjoints. What sums over slices (dq, Q K^T's adjoint) stays in
// registers. Two CTAs share an SM, but for rules with options, where W_0 is read and gets its
// gradient too: there dq's share through W_0 waits in shared memory for the next slice.
#pragma once

#include "src/core/cuda/memory/memory_gates.cuh"
#include "src/core/cuda/memory/memory_rows.cuh"

namespace mnemo::memory {
namespace {

struct InitialStorage {
  alignas(1024) bf16 initial[2][kTileElements];  // W_0: W1, W2^T of a slice
  bf16 cq[kTileElements], cdz[kTileElements];    // (1 - A_t) q_t, (1 - A_t) dz_t
  float4 dq[8][128];                             // dZ1 W_0 so far, register order
  float bias_parts[3][4 * kTile];                // by warp: of the biases, their momenta, the first
};
struct NoStorage {};

template <bool kOptions>
struct SharedStorage : std::conditional_t<kOptions, InitialStorage, NoStorage> {
  alignas(1024) bf16 weights[4][kTileElements];  // W1, W2^T, S1, S2^T of a slice
  bf16 h[kTileElements];                         // dy; H of the slice, then dZ
  bf16 d1[kTileElements];                        // G o X H^T; D1 of the slice
  bf16 x[kTileElements];
  bf16 dz[kTileElements];                     // of the last layer
  bf16 m2[kTileElements], r1[kTileElements];  // D2, then masked products [t, s]
  ChunkGates gates;
  float gain[kTile], parts[2][4 * kTile];
  uint64_t weights_bar, keys_bar, d2_bar;
};

struct Params {
  CommonParams common;
  Rows dy, dq;
  Kept kept;
};

template <bool kOptions>
__device__ void load_weights(const Params& p, SharedStorage<kOptions>& s, int block, int slice) {
  mbar_expect(&s.weights_bar, (kOptions ? 6 : 4) * kTileBytes);
  if constexpr (kOptions) {
    const Segment& seg = p.common.segment;
    const int head = block / seg.chunks % seg.heads;
    bulk_load(s.initial,
              p.common.options.initial_tiles + (head * kSlices + slice) * 2 * kTileElements,
              2 * kTileBytes, &s.weights_bar);
  }
  bulk_load(s.weights,
            p.common.states + int64_t{block} * kStateElements + 4 * slice * kTileElements,
            4 * kTileBytes, &s.weights_bar);
}

template <typename Storage>
__device__ void load_keys(const Params& p, Storage& s, int block, int slice) {
  mbar_expect(&s.keys_bar, 2 * kTileBytes);
  bulk_load(s.h, p.kept.tile(block, kept::kPerSlice * slice + kept::kH), 2 * kTileBytes,
            &s.keys_bar);
}

// sum[i] += row sums of a o b over this thread's columns.
__device__ void add_row_dots(float (&sum)[2], const Acc& a, const Frag& b) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(b[i]);
    sum[i & 1] = fmaf(a[2 * i], v.x, fmaf(a[2 * i + 1], v.y, sum[i & 1]));
  }
}

// A last step of a slice: what goes through W_0, on top of dq's share (f = dZ1), and to W_0.
__device__ void initial_adjoint(const Params& p, SharedStorage<true>& s, int block, int slice,
                                const Frag& f, Acc& acc, Acc& acc2) {
  const int thread = threadIdx.x;
  if (slice > 0) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float4 x = s.dq[j][thread];
      acc[4 * j] = x.x, acc[4 * j + 1] = x.y, acc[4 * j + 2] = x.z, acc[4 * j + 3] = x.w;
    }
  }
  wgmma_fence();
  product<1, true>(acc, f, s.initial[0], slice > 0);
  product<1, true, true>(acc2, s.h, s.cq, false);
  wgmma_commit();
  wgmma_wait<0>();
  settle(acc), settle(acc2);
#pragma unroll
  for (int j = 0; j < 8; ++j)
    s.dq[j][thread] = make_float4(acc[4 * j], acc[4 * j + 1], acc[4 * j + 2], acc[4 * j + 3]);
  const ExtraKept& extra = p.common.options.kept;
  store_fragment(extra.tile(block, extra_kept::kDinitial + 2 * slice), acc2);
  wgmma_fence();
  product<1, true, true>(acc2, s.x, s.cdz, false);
  wgmma_commit();
  wgmma_wait<0>();
  settle(acc2);
  store_fragment(extra.tile(block, extra_kept::kDinitial + 2 * slice + 1), acc2);
}

// What dz, the adjoint of what 64 biases from `at` on are added to, says of them, by warp to
// s.bias_parts; of A and B, to da and db.
__device__ void biases_backward(const Params& p, SharedStorage<true>& s, int block, int at,
                                const Frag& dz, const float (&decay)[2], const float (&push)[2],
                                const float (&fade)[2], float (&da)[2], float (&db)[2]) {
  const Options& o = p.common.options;
  const Segment& seg = p.common.segment;
  const int col = 2 * (threadIdx.x & 3);
  const float* c = o.bias_states + int64_t{block} * (2 * kBiases) + at;
  const float* first = bias_at(o.initial_c1, o.initial_c2, block / seg.chunks % seg.heads, at);
  Acc x;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 c_pair = *reinterpret_cast<const float2*>(c + 8 * j + col);
    const float2 t_pair = *reinterpret_cast<const float2*>(c + kBiases + 8 * j + col);
    float2 less = make_float2(0, 0);
    if (o.towards_initial) less = *reinterpret_cast<const float2*>(first + 8 * j + col);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 v = unpack(dz[2 * j + i]);
      x[4 * j + 2 * i] = v.x, x[4 * j + 2 * i + 1] = v.y;
      da[i] = fmaf(v.x, c_pair.x - less.x, fmaf(v.y, c_pair.y - less.y, da[i]));
      db[i] = fmaf(v.x, t_pair.x, fmaf(v.y, t_pair.y, db[i]));
    }
  }
  scaled_column_sums(x, decay, s.bias_parts[0]);
  scaled_column_sums(x, push, s.bias_parts[1]);
  scaled_column_sums(x, fade, s.bias_parts[2]);
}

// Their sums, behind a barrier, to the record.
__device__ void store_bias_sums(const Params& p, const SharedStorage<true>& s, int block, int at) {
  for (int i = threadIdx.x; i < 3 * kTile; i += 128) {
    const int which = i / kTile, f = i % kTile;
    p.common.options.kept.floats(block, extra_kept::kDbiases)[which * kBiases + at + f] =
        sum_warps(s.bias_parts[which] + f);
  }
}

// dy, in s.h, back through the layer norm and the last layer's masked product: dZ to s.dz, M to
// s.m2, and the adjoint of D2 to the record. Begins with G filled and D2 on its way to s.m2.
template <bool kOptions, typename Storage>
__device__ void last_layer_backward(const Params& p, Storage& s, int block) {
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
  Acc xhat, acc;
  Frag frag;
  load_floats(acc, p.kept.tile(block, kept::kR2));
  load_floats(xhat, p.kept.tile(block, kept::kOutput));
  const float* deviations = p.kept.floats(block, kept::kOutputInvDeviation);
  const float r[2] = {deviations[row], deviations[row + 8]};
  mask(frag, acc, s.gates, row, col);
  store_frag(s.d1, frag);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 dy = tile_pair(s.h, row + 8 * i, 8 * j + col);
      acc[4 * j + 2 * i] = dy.x, acc[4 * j + 2 * i + 1] = dy.y;
    }
  }
  column_sums(acc, s.parts[0]);
  {
    Acc product;
#pragma unroll
    for (int i = 0; i < 32; ++i) product[i] = acc[i] * xhat[i];
    column_sums(product, s.parts[1]);
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 gain = *reinterpret_cast<const float2*>(s.gain + 8 * j + col);
#pragma unroll
    for (int i = 0; i < 2; ++i) acc[4 * j + 2 * i] *= gain.x, acc[4 * j + 2 * i + 1] *= gain.y;
  }
  if (!kOptions || p.common.gain != nullptr) project(acc, xhat, r);
  to_frag(frag, acc);
  store_frag(s.dz, frag);
  fence_async();
  __syncthreads();
  if (thread < kTile) {
    const auto sum = [&](const float* x) {
      return (x[thread] + x[kTile + thread]) + (x[2 * kTile + thread] + x[3 * kTile + thread]);
    };
    p.kept.floats(block, kept::kDbias)[thread] = sum(s.parts[0]);
    p.kept.floats(block, kept::kDgain)[thread] = sum(s.parts[1]);
  }
  mbar_wait(&s.d2_bar, 0);
  wgmma_fence();
  product<1, false>(acc, frag, s.m2, false);
  product<-1, true, true>(xhat, s.d1, s.dz, false);
  wgmma_commit();
  wgmma_wait<0>();
  settle(acc), settle(xhat);
  __syncthreads();  // nobody reads D2 or dy any more
  mask(frag, acc, s.gates, row, col);
  store_frag(s.m2, frag);
  to_frag(frag, xhat);
  store_frag(s.h, frag);
  load_floats(xhat, p.kept.tile(block, kept::kR2));
#pragma unroll
  for (int i = 0; i < 32; ++i) acc[i] *= -xhat[i];
  store_floats(p.kept.tile(block, kept::kDg), acc);
  fence_async();
  __syncthreads();
  if (thread == 0) {
    bulk_store(p.kept.tile(block, kept::kDd2), s.h, kTileBytes);
    bulk_commit();
    bulk_wait_read();
  }
}

template <bool kOptions>
__global__ void __launch_bounds__(128, kOptions ? 1 : 2)
    read_backward_kernel(const __grid_constant__ Params p) {
  MNEMO_SHARED_MEMORY(raw);
  using Storage = SharedStorage<kOptions>;
  Storage& s = *reinterpret_cast<Storage*>(raw);
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
  const int block = blockIdx.x, sequence = block / seg.chunks;
  const int64_t first = seg.first(block % seg.chunks);
  const int count = seg.count(block % seg.chunks);

  if (thread == 0) {
    mbar_init(&s.weights_bar, 1);
    mbar_init(&s.keys_bar, 1);
    mbar_init(&s.d2_bar, 1);
    mbar_init_fence();
    fence_async();
    mbar_expect(&s.d2_bar, kTileBytes);
    bulk_load(s.m2, p.kept.tile(block, kept::kD2), kTileBytes, &s.d2_bar);
    load_weights<kOptions>(p, s, block, 0);
  }
  copy_rows_async(s.h, p.dy.at(seg, sequence, first), p.dy.token_stride, count, thread);
  copy_rows_async(s.x, p.common.q.at(seg, sequence, first), p.common.q.token_stride, count, thread);
  copy_commit();
  load_gates<kOptions, kOptions>(s.gates, p.common, sequence, block % seg.chunks, thread);
  if (thread < kTile) {
    const bool normed = !kOptions || p.common.gain != nullptr;
    s.gain[thread] = normed ? p.common.gain[sequence % seg.heads * kTile + thread] : 1;
  }
  __syncthreads();
  fill_g<kOptions>(s.gates, warp);
  copy_wait<0>();
  __syncthreads();
  last_layer_backward<kOptions>(p, s, block);
  float decay[2], push[2];  // A_t, B_t
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    decay[i] = p.kept.floats(block, kept::kA)[row + 8 * i];
    push[i] = p.kept.floats(block, kept::kB)[row + 8 * i];
  }
  // 1 - A_t, and 1, where the rule forgets towards W_0; else 0.
  const float towards = kOptions && p.common.options.towards_initial ? 1 : 0;
  const float fade[2] = {towards * (1 - decay[0]), towards * (1 - decay[1])};
  const bool biased = kOptions && p.common.options.biases;
  float da[2] = {}, db[2] = {};
  Frag f1, f2, f3;
  load_fragment(f1, p.kept.tile(block, kept::kR1)), store_frag(s.r1, f1);
  if constexpr (kOptions) {
    load_frag(f1, s.dz);
    if (biased) biases_backward(p, s, block, kSlices * kTile, f1, decay, push, fade, da, db);
    scale_rows(f2, f1, fade), store_frag(s.cdz, f2);
  }
  fence_async();
  __syncthreads();
  // What the state's adjoint needs of the reads, in the place of what has been read.
  if constexpr (kOptions) {
    if (biased) store_bias_sums(p, s, block, kSlices * kTile);
    load_frag(f1, s.x);
    scale_rows(f2, f1, fade), store_frag(s.cq, f2);
  }
  if (thread == 0) {
    bulk_store(p.kept.tile(block, kept::kReads), s.x, kTileBytes);
    bulk_store(p.kept.tile(block, kept::kReads + 1), s.dz, kTileBytes);
    bulk_commit();
    bulk_wait_read();
    load_keys(p, s, block, 0);
  }
  __syncthreads();

  Acc acc, acc2, dqw, dqs, t1;
  for (int slice = 0; slice < kSlices; ++slice) {
    const auto tile = [&](int index) {
      return p.kept.tile(block, kept::kPerSlice * slice + index);
    };
    Frag& x = f1;
    Frag& slope = f2;
    load_fragment(x, tile(kept::kX));
    load_fragment(slope, tile(kept::kSlopeQ));
    store_frag(s.x, x);
    fence_async();
    __syncthreads();
    mbar_wait(&s.weights_bar, slice & 1);
    wgmma_fence();
    product<1, false, false>(acc, s.dz, s.weights[1], false);
    product<1, false, false>(acc2, s.dz, s.weights[3], false);
    wgmma_commit();
    wgmma_wait<0>();
    add_row_dots(da, acc, x);
    add_row_dots(db, acc2, x);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int k = (i >> 1) & 1;
      acc[i] = fmaf(decay[k], acc[i], push[k] * acc2[i]);
    }
    if constexpr (kOptions) {
      wgmma_fence();
      product<1, false, false>(acc2, s.dz, s.initial[1], false);
      wgmma_commit();
      wgmma_wait<0>();
      settle(acc2);
      float less[2] = {};
      add_row_dots(less, acc2, x);
      da[0] -= towards * less[0], da[1] -= towards * less[1];
#pragma unroll
      for (int i = 0; i < 32; ++i) acc[i] = fmaf(fade[(i >> 1) & 1], acc2[i], acc[i]);
    }
    mbar_wait(&s.keys_bar, slice & 1);
    wgmma_fence();
    product<-1, false, true>(acc, s.m2, s.h, true);
    wgmma_commit();
    product<-1, true, true>(acc2, s.m2, s.x, false);
    wgmma_commit();
    wgmma_wait<1>();
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float2 d = unpack(slope[i]);
      f3[i] = pack(acc[2 * i] * d.x, acc[2 * i + 1] * d.y);
    }
    wgmma_wait<0>();
    store_fragment(p.kept.tile(block, kept::kDh + slice), acc2);
    __syncthreads();  // nobody reads H any more: dZ takes its place
    store_frag(s.h, f3);
    if constexpr (kOptions) {
      if (biased) biases_backward(p, s, block, slice * kTile, f3, decay, push, fade, da, db);
    }
    fence_async();
    __syncthreads();
    if constexpr (kOptions) {
      if (biased) store_bias_sums(p, s, block, slice * kTile);
    }
    wgmma_fence();
    product<-1, true, true>(acc, s.r1, s.h, false);
    wgmma_commit();
    product<1, true>(dqw, f3, s.weights[0], slice > 0);
    product<1, true>(dqs, f3, s.weights[2], slice > 0);
    product<1, false>(t1, f3, s.d1, slice > 0);
    wgmma_commit();
    wgmma_wait<1>();
    store_fragment(p.kept.tile(block, kept::kDd1 + slice), acc);
    store_transposed_fragment(tile(kept::kX), s.x);
    store_transposed_fragment(tile(kept::kDz1), s.h);
    wgmma_wait<0>();
    if constexpr (kOptions) initial_adjoint(p, s, block, slice, f3, acc, acc2);
    fence_async();  // this thread's writes to the tiles that the copy engine fills again
    __syncthreads();
    if (thread == 0 && slice + 1 < kSlices) {
      load_weights<kOptions>(p, s, block, slice + 1);
      load_keys(p, s, block, slice + 1);
    }
  }
  // First layer: Q K^T and its mask.
  copy_rows_async(s.x, p.common.q.at(seg, sequence, first), p.common.q.token_stride, count, thread);
  copy_rows_async(s.d1, p.common.k.at(seg, sequence, first), p.common.k.token_stride, count,
                  thread);
  copy_rows_async(s.h, p.dy.at(seg, sequence, first), p.dy.token_stride, count, thread);
  copy_commit();
  copy_wait<0>();
  fence_async();
  __syncthreads();
  wgmma_fence();
  product<1, false, false>(acc, s.x, s.d1, false);
  wgmma_commit();
  load_frag(f1, s.x);
  add_row_dots(da, dqw, f1);
  add_row_dots(db, dqs, f1);
  if constexpr (kOptions) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float4 v = s.dq[j][thread];
      acc2[4 * j] = v.x, acc2[4 * j + 1] = v.y, acc2[4 * j + 2] = v.z, acc2[4 * j + 3] = v.w;
    }
    float less[2] = {};
    add_row_dots(less, acc2, f1);
    da[0] -= towards * less[0], da[1] -= towards * less[1];
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    da[i] = quad_sum(da[i]), db[i] = quad_sum(db[i]);
    if ((lane & 3) == 0) {
      p.kept.floats(block, kept::kDa)[row + 8 * i] = da[i];
      p.kept.floats(block, kept::kDb)[row + 8 * i] = db[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int k = (i >> 1) & 1;
    dqw[i] = fmaf(decay[k], dqw[i], push[k] * dqs[i]);
    if (kOptions) dqw[i] = fmaf(fade[k], acc2[i], dqw[i]);
  }
  mask(f2, t1, s.gates, row, col);
  store_frag(s.m2, f2);
  fence_async();
  __syncthreads();
  wgmma_wait<0>();
  if (biased) {
    settle(acc);
#pragma unroll
    for (int i = 0; i < 32; ++i) acc[i] += 1;
  }
  float4* dg = reinterpret_cast<float4*>(p.kept.tile(block, kept::kDg)) + thread;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float4 v = dg[128 * j];
    v.x -= acc[4 * j] * t1[4 * j], v.y -= acc[4 * j + 1] * t1[4 * j + 1];
    v.z -= acc[4 * j + 2] * t1[4 * j + 2], v.w -= acc[4 * j + 3] * t1[4 * j + 3];
    dg[128 * j] = v;
  }
  wgmma_fence();
  product<-1, true>(dqw, f2, s.d1, true);
  product<-1, true, true>(acc2, s.m2, s.x, false);
  wgmma_commit();
  wgmma_wait<0>();
  store_fragment(p.kept.tile(block, kept::kDk), acc2);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float2 dy = tile_pair(s.h, row + 8 * i, 8 * j + col);
      if (!p.common.residual) dy = make_float2(0, 0);
      f1[2 * j + i] = pack(dqw[4 * j + 2 * i] + dy.x, dqw[4 * j + 2 * i + 1] + dy.y);
    }
  }
  store_frag(s.r1, f1);
  __syncthreads();
  write_rows(p.dq.at(seg, sequence, first), p.dq.token_stride, s.r1, count, thread);
}

template <bool kOptions>
void launch(const Params& p, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage<kOptions>);
  static_assert((kOptions ? 1 : 2) * (kBytes + 1024) <= 228 * 1024);
  launch_kernel(read_backward_kernel<kOptions>,
                {p.common.segment.sequences * p.common.segment.chunks, 128, kBytes}, stream, p);
}

}  // namespace
}  // namespace mnemo::memory
