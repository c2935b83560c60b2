// The parallel half of the forward pass: every chunk's reads from its first state.
//
// One warpgroup works through one block (chunk and head), hidden slice by slice, the way flash
// attention works through keys: the output [token, f] and the masked product X H^T [token, token]
// stay in registers while the slices' weights stream through three stages of shared memory. Keys
// are passed first over all slices (for the deltas), then recomputed slice by slice. Two CTAs
// share an SM, so that one's elementwise work runs under the other's matrix products.
#pragma once

#include "src/core/cuda/memory/memory_read.cuh"

namespace mnemo::memory {
namespace {

// kKeep: keeps every intermediate for the backward pass; y may be null then.
// Where registers are short ptxas 13.0 writes over a matrix operand that the loop over slices still
// needs (tests/bench/memory_scan/lost_operands.py finds such places). Hence the activation is a
// template parameter and no branch in the loop, kOptions always goes through W_0, with a factor of
// zero where the rule does not forget towards it, and kKeep loads B q in every slice.
template <bool kKeep, bool kGelu, bool kOptions>
__global__ void __launch_bounds__(128, 2) read_kernel(const __grid_constant__ Params p) {
  MNEMO_SHARED_MEMORY(raw);
  SharedStorage& s = *reinterpret_cast<SharedStorage*>(raw);
  const Segment& seg = p.common.segment;
  using act = Activation<kGelu>;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
  const int block = blockIdx.x, sequence = block / seg.chunks;
  const int64_t first = seg.first(block % seg.chunks);
  const int count = seg.count(block % seg.chunks);

  if (thread == 0) {
    for (int i = 0; i < kStages; ++i) mbar_init(&s.full[i], 1);
    mbar_init_fence();
    fence_async();
    for (int i = 0; i < kStages; ++i) load_stage<kOptions>(p, s, block, i);
  }
  copy_rows_async(s.q, p.common.q.at(seg, sequence, first), p.common.q.token_stride, count, thread);
  copy_rows_async(s.k, p.common.k.at(seg, sequence, first), p.common.k.token_stride, count, thread);
  copy_rows_async(s.d2, p.common.v.at(seg, sequence, first), p.common.v.token_stride, count,
                  thread);
  copy_commit();
  load_gates<kOptions, kOptions>(s.gates, p.common, sequence, block % seg.chunks, thread);
  load_norm_or_ones<kOptions>(s.gain, s.bias, p.common, sequence % seg.heads);
  const bool normed = !kOptions || p.common.gain != nullptr;
  __syncthreads();
  fill_g<kOptions>(s.gates, warp);
  copy_wait<0>();
  fence_async();
  __syncthreads();

  const float decay[2] = {s.gates.g[row][kTile + 1], s.gates.g[row + 8][kTile + 1]};  // A_t
  const float push[2] = {s.gates.g[row][kTile], s.gates.g[row + 8][kTile]};           // B_t
  if (kKeep && (lane & 3) == 0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      p.kept.floats(block, kept::kA)[row + 8 * i] = decay[i];
      p.kept.floats(block, kept::kB)[row + 8 * i] = push[i];
    }
  }
  // Biases: weights whose input is 1.
  const bool biased = kOptions && p.common.options.biases;
  [[maybe_unused]] const ReadBiases biases(p, block, biased);
  constexpr float kOnes[2] = {1, 1};
  Acc acc, acc2, y, r2;
  Frag masked;  // G o Q K^T
  Frag aq, bq;  // A_t q_t, B_t q_t
  const auto load_queries = [&](Frag& to, const float(&scale)[2]) {
    load_frag(to, s.q);
    scale_rows(to, to, scale);
  };
  load_queries(aq, decay);
  if (!kKeep) load_queries(bq, push);
  wgmma_fence();
  product<1, false, false>(acc, s.q, s.k, false);
  wgmma_commit();
  wgmma_wait<0>();
  if (biased) {
    settle(acc);
    add_one(acc);
  }
  mask(masked, acc, s.gates, row, col);
  if (kKeep) store_fragment(p.kept.tile(block, kept::kR1), masked);

  // Keys, all slices: the network's output.
  for (int slice = 0; slice < kSlices; ++slice) {
    const int stage = slice % kStages;
    mbar_wait(&s.full[stage], slice / kStages);
    wgmma_fence();
    product<1, false, false>(acc, s.k, s.stage[stage][0], false);
    wgmma_commit();
    wgmma_wait<0>();
    settle(acc);
    if (biased) add_columns(acc, kOnes, biases.c + slice * kTile);
#pragma unroll
    for (int i = 0; i < 32; ++i) acc[i] = act::value(acc[i]);
    Frag h;
    to_frag(h, acc);
    wgmma_fence();
    product<1, true>(y, h, s.stage[stage][1], slice > 0);
    wgmma_commit();
    wgmma_wait<0>();
    __syncthreads();
    if (thread == 0) load_stage<kOptions>(p, s, block, slice + kStages);
  }
  // Deltas of the last layer.
  {
    float r[2] = {1, 1};
    if (kOptions) settle(y);
    if (biased) add_columns(y, kOnes, biases.c + kSlices * kTile);
    if (normed) normalize(y, p.common.epsilon, r);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 gain = *reinterpret_cast<const float2*>(s.gain + 8 * j + col);
      const float2 bias = *reinterpret_cast<const float2*>(s.bias + 8 * j + col);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 value = tile_pair(s.d2, row + 8 * i, 8 * j + col);
        float2 key = tile_pair(s.k, row + 8 * i, 8 * j + col);
        if (!p.common.residual) key = make_float2(0, 0);
        const float* x = y + 4 * j + 2 * i;
        acc[4 * j + 2 * i] = (fmaf(gain.x, x[0], bias.x) + key.x - value.x) * gain.x;
        acc[4 * j + 2 * i + 1] = (fmaf(gain.y, x[1], bias.y) + key.y - value.y) * gain.y;
        if (kKeep) {
          float* xhat = reinterpret_cast<float*>(p.kept.tile(block, kept::kXhat));
          *reinterpret_cast<float2*>(xhat + (row + 8 * i) * kTile + 8 * j + col) =
              make_float2(x[0], x[1]);
        }
      }
    }
    if (kKeep && (lane & 3) == 0) {
      p.kept.floats(block, kept::kInvDeviation)[row] = r[0];
      p.kept.floats(block, kept::kInvDeviation)[row + 8] = r[1];
    }
    if (normed) project(acc, y, r);
    Frag d;
    to_frag(d, acc);
    __syncwarp();
    store_frag(s.d2, d);
    fence_async();
    __syncthreads();
    if (kKeep && thread == 0) {
      bulk_store(p.kept.tile(block, kept::kD2), s.d2, kTileBytes);
      bulk_commit();
    }
  }
  // Keys again and reads, slice by slice.
  for (int slice = 0; slice < kSlices; ++slice) {
    const int load_w = kSlices + kPairs<kOptions> * slice, load_s = load_w + 1;
    const bf16* w1 = s.stage[load_w % kStages][0];
    const bf16* w2 = s.stage[load_w % kStages][1];
    const bf16* s1 = s.stage[load_s % kStages][0];
    const bf16* s2 = s.stage[load_s % kStages][1];
    mbar_wait(&s.full[load_w % kStages], load_w / kStages & 1);
    wgmma_fence();
    product<1, false, false>(acc, s.k, w1, false);
    product<1, false, false>(acc2, s.d2, w2, false);
    wgmma_commit();
    wgmma_wait<0>();
    settle(acc), settle(acc2);
    if (biased) add_columns(acc, kOnes, biases.c + slice * kTile);
    Frag x, ax, bx;
    [[maybe_unused]] Frag cq;  // (1 - A_t) q_t, then (1 - A_t) x_t
    [[maybe_unused]] const int load_0 = load_w + 2;
    if (kKeep) {
      Frag slope;
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        float c[2], d[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          d[e] = act::slope_and_curve(acc[2 * i + e], c[e]);
          c[e] *= acc2[2 * i + e];
          acc2[2 * i + e] *= d[e];
        }
        slope[i] = pack(d[0], d[1]);
        bx[i] = pack(c[0], c[1]);
      }
      store_fragment(p.kept.tile(block, kept::kPerSlice * slice + kept::kSlopeK), slope);
      store_fragment(p.kept.tile(block, kept::kPerSlice * slice + kept::kCurve), bx);
    } else {
#pragma unroll
      for (int i = 0; i < 32; ++i) acc2[i] *= act::value_and_slope(acc[i]);
    }
    to_frag(x, acc);
    store_frag(s.h, x);
    to_frag(ax, acc2);
    store_frag(s.d1, ax);
    if (kKeep) load_queries(bq, push);
    mbar_wait(&s.full[load_s % kStages], load_s / kStages & 1);
    wgmma_fence();
    product<1, false>(acc, aq, w1, false);
    product<1, false>(acc, bq, s1, true);
    wgmma_commit();
    fence_async();
    __syncthreads();
    product<-1, true>(acc, masked, s.d1, true);
    wgmma_commit();
    if constexpr (kOptions) {
      float fade[2];
      fade_of(fade, p.common.options, decay);
      load_queries(cq, fade);
      mbar_wait(&s.full[load_0 % kStages], load_0 / kStages & 1);
      wgmma_fence();
      product<1, false>(acc, cq, s.stage[load_0 % kStages][0], true);
      wgmma_commit();
    }
    if (kKeep && thread == 0) {
      bf16* to = p.kept.tile(block, kept::kPerSlice * slice);
      bulk_store(to + kept::kH * kTileElements, s.h, kTileBytes);
      bulk_store(to + kept::kD1 * kTileElements, s.d1, kTileBytes);
      bulk_commit();
    }
    wgmma_wait<0>();
    settle(acc);
    if (biased) biases.add_to_reads(acc, slice * kTile, p.common.options, decay, push);
    if (kKeep) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float lo = act::value_and_slope(acc[2 * i]);
        const float hi = act::value_and_slope(acc[2 * i + 1]);
        bx[i] = pack(lo, hi);
      }
      store_fragment(p.kept.tile(block, kept::kPerSlice * slice + kept::kSlopeQ), bx);
    } else {
#pragma unroll
      for (int i = 0; i < 32; ++i) acc[i] = act::value(acc[i]);
    }
    to_frag(x, acc);
    if (kKeep) store_fragment(p.kept.tile(block, kept::kPerSlice * slice + kept::kX), x);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      ax[i] = pack(decay[i & 1] * acc[2 * i], decay[i & 1] * acc[2 * i + 1]);
      bx[i] = pack(push[i & 1] * acc[2 * i], push[i & 1] * acc[2 * i + 1]);
    }
    if constexpr (kOptions) {
      float fade[2];
      fade_of(fade, p.common.options, decay);
#pragma unroll
      for (int i = 0; i < 16; ++i)
        cq[i] = pack(fade[i & 1] * acc[2 * i], fade[i & 1] * acc[2 * i + 1]);
    }
    wgmma_fence();
    product<1, true>(y, ax, w2, slice > 0);
    product<1, true>(y, bx, s2, true);
    product<1, false>(r2, x, s.h, slice > 0);
    if constexpr (kOptions) product<1, true>(y, cq, s.stage[load_0 % kStages][1], true);
    wgmma_commit();
    if (kKeep && thread == 0) bulk_wait_read();
    wgmma_wait<0>();
    __syncthreads();
    if (thread == 0) {
      for (int load = load_w; load < load_w + kPairs<kOptions>; ++load)
        if (load + kStages < kLoads<kOptions>) load_stage<kOptions>(p, s, block, load + kStages);
    }
  }
  if (biased) {
    settle(r2);
    add_one(r2);
  }
  if (kKeep) store_floats(p.kept.tile(block, kept::kR2), r2);
  mask(masked, r2, s.gates, row, col);
  wgmma_fence();
  product<-1, true>(y, masked, s.d2, true);
  wgmma_commit();
  wgmma_wait<0>();
  float r[2] = {1, 1};
  if (kOptions) settle(y);
  if (biased) biases.add_to_reads(y, kSlices * kTile, p.common.options, decay, push);
  if (normed) normalize(y, p.common.epsilon, r);
  if (kKeep) {
    store_floats(p.kept.tile(block, kept::kOutput), y);
    if ((lane & 3) == 0) {
      p.kept.floats(block, kept::kOutputInvDeviation)[row] = r[0];
      p.kept.floats(block, kept::kOutputInvDeviation)[row + 8] = r[1];
    }
    if (p.y.data == nullptr) return;
  }
  Frag out;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 gain = *reinterpret_cast<const float2*>(s.gain + 8 * j + col);
    const float2 bias = *reinterpret_cast<const float2*>(s.bias + 8 * j + col);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float2 query = tile_pair(s.q, row + 8 * i, 8 * j + col);
      if (!p.common.residual) query = make_float2(0, 0);
      const float* x = y + 4 * j + 2 * i;
      out[2 * j + i] =
          pack(fmaf(gain.x, x[0], bias.x) + query.x, fmaf(gain.y, x[1], bias.y) + query.y);
    }
  }
  store_frag(s.h, out);
  __syncthreads();
  write_rows(p.y.at(seg, sequence, first), p.y.token_stride, s.h, count, thread);
}

template <bool kKeep, bool kGelu, bool kOptions>
void launch(const Params& p, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage);
  static_assert(2 * (kBytes + 1024) <= 228 * 1024);
  const Segment& seg = p.common.segment;
  launch_kernel(read_kernel<kKeep, kGelu, kOptions>, {seg.sequences * seg.chunks, 128, kBytes},
                stream, p);
}

template <bool kKeep, bool kOptions>
void launch(const Params& p, cudaStream_t stream) {
  if (p.common.gelu) {
    launch<kKeep, true, kOptions>(p, stream);
  } else {
    launch<kKeep, false, kOptions>(p, stream);
  }
}

}  // namespace
}  // namespace mnemo::memory
