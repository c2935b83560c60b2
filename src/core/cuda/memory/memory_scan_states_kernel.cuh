// The sequential half of the forward pass: key pass and state update, chunk after chunk.
//
// A cluster of two CTAs runs one sequence. CTA r owns the hidden slices 2 r and 2 r + 1 of 64
// units; four warpgroups share them: warpgroup (slice, layer) keeps its slice's W and S of that
// layer in fp32 in registers and passes half of the chunk's keys through the slice. The bf16
// operand copies are in shared memory. Only the network's output crosses the cluster: each CTA
// adds the two partial outputs of its 32 tokens, forms their deltas and sends them to the other.
#pragma once

#include "src/core/cuda/memory/memory_scan_states.cuh"

namespace mnemo::memory {
namespace {

template <bool kOptions>
__global__ void __cluster_dims__(kRanks, 1, 1) __launch_bounds__(kThreads, 1)
    scan_states_kernel(const __grid_constant__ Params p) {
  MNEMO_SHARED_MEMORY(raw);
  using Storage = SharedStorage<kOptions>;
  Storage& s = *reinterpret_cast<Storage*>(raw);
  const Options& o = p.common.options;
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x, lane = thread & 31;
  const int warp = __shfl_sync(0xffffffffu, thread >> 5, 0);  // told to be uniform
  const int group = warp >> 2, slice = group >> 1, layer = group & 1;
  const int rank = static_cast<int>(cluster_rank());
  const int sequence = blockIdx.x / kRanks;
  const int hidden_slice = 2 * rank + slice;

  Acc w, m;  // weights and momentum of this layer and slice
  load_slice(w, layer ? p.in.w2 : p.in.w1, sequence, hidden_slice, layer);
  load_slice(m, layer ? p.in.s2 : p.in.s1, sequence, hidden_slice, layer);
  const auto store_state = [&] {
    Frag frag;
    to_frag(frag, w), store_frag(s.state[slice][layer], frag);
    to_frag(frag, m), store_frag(s.state[slice][2 + layer], frag);
  };
  const bool biased = kOptions && o.biases;
  // A chunk that begins at W_0; the same for all threads of the cluster.
  const auto reset = [&](int chunk) {
    if (!o.reset(sequence / seg.heads, chunk)) return;
    reset_state(o, sequence % seg.heads, hidden_slice, layer, w, m);
    if constexpr (kOptions) {
      const OwnBias own_bias(biased, rank);
      if (!own_bias.keeps) return;
      s.biases[0][own_bias.row][own_bias.column] =
          *bias_at(o.initial_c1, o.initial_c2, sequence % seg.heads, own_bias.index);
      s.biases[1][own_bias.row][own_bias.column] = 0;
    }
  };
  const bool clamps = kOptions && o.clamps(), normed = !kOptions || p.common.gain != nullptr;
  const Prefetcher prefetcher(p, sequence);
  prefetcher.start(p, s, sequence, rank, 0);
  load_norm_or_ones<kOptions>(s.gain, s.bias, p.common, sequence % seg.heads);
  if (thread == 0) {
    // One arrival announces the other CTA's bytes, the rest are this CTA's warps.
    mbar_init(&s.part_bar, 1 + 8);
    mbar_init(&s.d2_bar, 1 + 16);
    if (kOptions) mbar_init(&s.square_bar[0], 1 + 16), mbar_init(&s.square_bar[1], 1 + 16);
    mbar_init_fence();
  }
  if constexpr (kOptions) {
    const OwnBias own_bias(biased, rank);
    if (own_bias.keeps) {
      const float* c = bias_at(p.in.c1, p.in.c2, sequence, own_bias.index);
      const float* t = bias_at(p.in.t1, p.in.t2, sequence, own_bias.index);
      s.biases[0][own_bias.row][own_bias.column] = c == nullptr ? 0 : *c;
      s.biases[1][own_bias.row][own_bias.column] = t == nullptr ? 0 : *t;
    }
    reset(0);
  }
  store_state();
  copy_wait<0>();
  fence_async();
  cluster_sync();

  // Deltas: two tokens a warp, sixteen lanes each.
  const int local = 2 * warp + (lane >> 4), own_row = kOwned * rank + local;
  // Outputs: this warp's sixteen tokens, sixteen features. Half the warps hold the other's tokens.
  const int owner = (warp & 3) >> 1;
  float* part_here = &s.part[rank][16 * (warp & 1) + lane / 4][16 * group + 2 * (lane & 3)];
  const uint32_t part_there = map_rank(smem_address(part_here), 1 - rank);
  const uint32_t part_bar_there = map_rank(smem_address(&s.part_bar), 1 - rank);
  char* d2_here = reinterpret_cast<char*>(s.d2) + swizzle_offset(own_row, 4 * (lane & 15));
  const uint32_t d2_there = map_rank(smem_address(d2_here), 1 - rank);
  const uint32_t d2_bar_there = map_rank(smem_address(&s.d2_bar), 1 - rank);

  for (int chunk = 0; chunk < seg.chunks; ++chunk) {
    const int parity = chunk & 1;
    const bf16* k_tile = s.k[parity];
    const float* g = s.coefficients[parity];
    // Hidden activations of this slice for half of the tokens: [hidden, token].
    Part acc;
    wgmma_fence();
    narrow_product<1, false, false>(acc, s.state[slice][0], k_tile, 32 * layer, false);
    wgmma_commit();
    if (thread == 0) {
      mbar_expect(&s.part_bar, kPartBytes);
      mbar_expect(&s.d2_bar, kDeltaBytes);
      if (clamps) mbar_expect(&s.square_bar[parity], kSquareBytes);
      bulk_store(p.common.states + (int64_t{sequence} * seg.chunks + chunk) * kStateElements +
                     rank * 8 * kTileElements,
                 s.state, 8 * kTileBytes);
      bulk_commit();
    }
    if constexpr (kOptions) {
      const OwnBias own_bias(biased, rank);
      if (own_bias.speaks) {
        float* to = o.bias_states + (int64_t{sequence} * seg.chunks + chunk) * (2 * kBiases);
        to[own_bias.index] = s.biases[0][own_bias.row][own_bias.column];
        to[kBiases + own_bias.index] = s.biases[1][own_bias.row][own_bias.column];
      }
    }
    if (chunk + 1 < seg.chunks) prefetcher.start(p, s, sequence, rank, chunk + 1);
    wgmma_wait<0>();
    uint32_t slope[8];
    settle(acc);
    if constexpr (kOptions) {
      if (biased) {
        const float* c1 = &s.biases[0][slice][16 * (warp & 3) + lane / 4];
        const float c[2] = {c1[0], c1[8]};
#pragma unroll
        for (int i = 0; i < 16; ++i) acc[i] += c[(i >> 1) & 1];
      }
    }
    with_activation(p.common.gelu, [&](auto act) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float lo = act.value_and_slope(acc[2 * i]), hi = act.value_and_slope(acc[2 * i + 1]);
        slope[i] = pack(lo, hi);
      }
    });
    store_half(s.h[slice], acc, 32 * layer);
    if constexpr (kOptions) {
      if (clamps) {
        send_squares(acc, s.squares[parity][rank], &s.square_bar[parity], 1 - rank, 0,
                     4 * slice + (warp & 3), 32 * layer);
      }
    }
    fence_async();
    __syncthreads();
    // Sixteen features of the output over this CTA's hidden units, [token, f].
    {
      float o[8];
      wgmma_fence();
      narrow_product<1, true, true>(o, s.h[0], s.state[0][1], 16 * group, false);
      narrow_product<1, true, true>(o, s.h[1], s.state[1][1], 16 * group, true);
      wgmma_commit();
      wgmma_wait<0>();
#pragma unroll
      for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int at = 8 * i * kPartStride + 8 * j;
          const float2 x = make_float2(o[4 * j + 2 * i], o[4 * j + 2 * i + 1]);
          if (owner == rank) {
            *reinterpret_cast<float2*>(part_here + at) = x;
          } else {
            send(part_there + 4 * at, make_uint2(__float_as_uint(x.x), __float_as_uint(x.y)),
                 part_bar_there);
          }
        }
      }
      __syncwarp();
      if (owner == rank && lane == 0) mbar_arrive(&s.part_bar);
    }
    // While they travel: the part of the state update that needs no delta.
    {
      const float a = g[128], b = g[129], e = g[130];
#pragma unroll
      for (int i = 0; i < 32; ++i) w[i] = fmaf(a, w[i], b * m[i]), m[i] *= e;
      if (kOptions && o.towards_initial)
        add_initial(o, sequence % seg.heads, hidden_slice, layer, 1 - a, w);
    }
    if (!clamps) scale_tokens(s.scaled[0], k_tile, g);
    TokenDelta delta;
    delta.prepare(s, k_tile, s.v[parity], own_row, local, p.common.residual);
    mbar_wait(&s.part_bar, parity);
    {
      const uint2 d =
          delta.finish(s, local, p.common.epsilon, normed, biased ? s.biases[0][2] : nullptr);
      *reinterpret_cast<uint2*>(d2_here) = d;
      send(d2_there, d, d2_bar_there);
      __syncwarp();
      if (lane == 0) mbar_arrive(&s.d2_bar);
    }
    mbar_wait(&s.d2_bar, parity);
    fence_async();
    wgmma_fence();
    narrow_product<1, false, false>(acc, s.state[slice][1], s.d2, 32 * layer, false);
    wgmma_commit();
    if (!clamps) scale_tokens(s.scaled[1], s.d2, g);
    wgmma_wait<0>();
    if (kOptions) settle(acc);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 d = unpack(slope[i]);
      acc[2 * i] *= d.x, acc[2 * i + 1] *= d.y;
    }
    store_half(s.d1[slice], acc, 32 * layer);
    if constexpr (kOptions) {
      if (clamps) {
        send_squares(acc, s.squares[parity][rank], &s.square_bar[parity], 1 - rank, 1,
                     4 * slice + (warp & 3), 32 * layer);
        __syncwarp();
        if (lane == 0) mbar_arrive(&s.square_bar[parity]);
        mbar_wait(&s.square_bar[parity], (chunk >> 1) & 1);
        const float factor = clamp_factor(o, s.squares[parity], s.d2, k_tile, g, rank == 0,
                                          sequence * seg.chunks + chunk, seg.count(chunk),
                                          const_cast<float*>(p.common.coefficients));
        if ((thread & 7) == 0) s.clamp_factors[thread >> 3] = factor;
        scale_tokens(s.scaled[0], k_tile, g, factor);
        scale_tokens(s.scaled[1], s.d2, g, factor);
      }
    }
    fence_async();
    // The store of this chunk's state must have read the tiles before they change.
    if (thread == 0) bulk_wait_read();
    __syncthreads();
    {
      Frag a;
      load_frag(a, layer ? s.h[slice] : s.d1[slice]);
      wgmma_fence();
      product<-1, true>(w, a, s.scaled[layer][0], true);
      product<-1, true>(m, a, s.scaled[layer][1], true);
      wgmma_commit();
      wgmma_wait<0>();
    }
    if constexpr (kOptions) {
      settle(w), settle(m);
      const OwnBias own_bias(biased, rank);
      if (own_bias.keeps) update_bias(p, s, own_bias, g, sequence % seg.heads);
      if (chunk + 1 < seg.chunks) reset(chunk + 1);
    }
    store_state();
    copy_wait<0>();
    fence_async();
    __syncthreads();
  }
  store_slice(w, layer ? p.out.w2 : p.out.w1, sequence, hidden_slice, layer);
  store_slice(m, layer ? p.out.s2 : p.out.s1, sequence, hidden_slice, layer);
  if constexpr (kOptions) {
    const OwnBias own_bias(biased, rank);
    if (own_bias.speaks) {
      float* c = bias_at(p.out.c1, p.out.c2, sequence, own_bias.index);
      float* t = bias_at(p.out.t1, p.out.t2, sequence, own_bias.index);
      if (c != nullptr) *c = s.biases[0][own_bias.row][own_bias.column];
      if (t != nullptr) *t = s.biases[1][own_bias.row][own_bias.column];
    }
  }
  if (thread == 0) bulk_wait();
  cluster_sync();  // nobody leaves while its shared memory may still be written
}

template <bool kOptions>
void launch(const Params& p, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage<kOptions>);
  static_assert(kBytes <= 227 * 1024);
  launch_kernel(scan_states_kernel<kOptions>,
                {p.common.segment.sequences * kRanks, kThreads, kBytes, kRanks}, stream, p);
}

}  // namespace
}  // namespace mnemo::memory
