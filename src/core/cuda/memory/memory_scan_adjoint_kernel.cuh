// The sequential half of the backward pass: the state's adjoint, chunk after chunk, last first.
//
// A cluster of four CTAs runs one sequence, one hidden slice each; warpgroup `layer` of a CTA keeps
// the adjoints of that layer's W and S in fp32 in registers, their bf16 copies in shared memory.
// The two layers do the same thing to W' = .. - F^T diag(g) In (F = D1, In = K below; F = H,
// In = D2 above); they meet where dU goes up into dD2 and dO comes down into dH. Only dD2 [token,
// f] crosses the cluster: the partial sums of sixteen tokens go to the CTA that owns them, which
// takes them through the layer norm's second derivative and sends dO back to all.
#pragma once

#include "src/core/cuda/memory/memory_scan_adjoint.cuh"

namespace mnemo::memory {
namespace {

__device__ void scale_rows(Frag& out, const Frag& x, float low, float high) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(x[i]);
    const float scale = (i & 1) ? high : low;
    out[i] = pack(scale * v.x, scale * v.y);
  }
}

// x += scale y z by rows; for the clamp.
__device__ void add_scaled(Frag& x, const Frag& y, const Frag& z, float low, float high) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 a = unpack(x[i]), b = unpack(y[i]), c = unpack(z[i]);
    const float scale = (i & 1) ? high : low;
    x[i] = pack(fmaf(scale * b.x, c.x, a.x), fmaf(scale * b.y, c.y, a.y));
  }
}

template <bool kOptions>
__global__ void __cluster_dims__(kRanks, 1, 1) __launch_bounds__(kThreads, 1)
    scan_adjoint_kernel(const __grid_constant__ Params p) {
  MNEMO_SHARED_MEMORY(raw);
  using Storage = std::conditional_t<kOptions, OptionStorage, SharedStorage>;
  Storage& s = *reinterpret_cast<Storage*>(raw);
  const Options& options = p.common.options;
  const bool clamps = kOptions && options.clamps();
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x, lane = thread & 31;
  const int warp = __shfl_sync(0xffffffffu, thread >> 5, 0);
  const int layer = warp >> 2;
  const int rank = static_cast<int>(cluster_rank());
  const int sequence = blockIdx.x / kRanks;
  const int row = 16 * (warp & 3) + lane / 4, col = 2 * (lane & 3);

  Acc dw, ds;
  load_slice(dw, layer ? p.in.w2 : p.in.w1, sequence, rank, layer);
  load_slice(ds, layer ? p.in.s2 : p.in.s1, sequence, rank, layer);
  const auto store_adjoint = [&] {
    Frag frag;
    to_frag(frag, dw), store_frag(s.adjoint[layer][0], frag);
    to_frag(frag, ds), store_frag(s.adjoint[layer][1], frag);
  };
  if (thread == 0) {
    mbar_init(&s.stage_bar[0], 1);
    mbar_init(&s.stage_bar[1], 1);
    mbar_init(&s.part_bar, 1 + 1);  // the other CTAs' bytes, this CTA's warp
    mbar_init(&s.do_bar, 1 + 8);    // the other CTAs' bytes, this CTA's eight warps
    mbar_init(&s.reads_bar, 1);
    mbar_init_fence();
    fence_async();
    load_reads(p, s, sequence, 0);
  }
  // This thread's part of the segment's first keys, and the last row counted from there.
  const bf16* keys =
      p.common.k.at(seg, sequence, min(seg.first_token + (thread >> 3), seg.tokens - 1)) +
      8 * (thread & 7);
  const int last_row =
      static_cast<int>(min(seg.tokens - 1 - seg.first_token, int64_t{seg.chunks} * seg.chunk - 1));
  prefetch(p, s, sequence, rank, 0, keys, last_row);
  load_norm_or_ones<kOptions>(s.gain, s.bias, p.common, sequence % seg.heads);
  const bool biased = kOptions && options.biases;
  if constexpr (kOptions) {
    if (biased) {
      const OwnBias own_bias(biased, rank);
      const float* from = own_bias.which == 0 ? bias_at(p.in.c1, p.in.c2, sequence, own_bias.index)
                                              : bias_at(p.in.t1, p.in.t2, sequence, own_bias.index);
      *own_bias.at(s, 0) = from == nullptr ? 0 : *from;
    }
  }
  store_adjoint();
  copy_wait<0>();
  fence_async();
  cluster_sync();

  const int local = 2 * warp + (lane >> 4), own_row = kOwned * rank + local;
  // Warp w of the upper layer's warpgroup holds the tokens of CTA w.
  const int owner = warp & 3;
  float* part_here = &s.part[rank][lane / 4][col];
  float dgain[4] = {}, dbias[4] = {};

  for (int step = 0; step < seg.chunks; ++step) {
    const int parity = step & 1, chunk = seg.chunks - 1 - step;
    const int block = sequence * seg.chunks + chunk;
    Stage& stage = s.stage[parity];
    const float* g = s.coefficients[parity];
    const int64_t first = seg.first(chunk);
    const bool own_valid = own_row < seg.count(chunk);
    const auto slice_tile = [&](int index) {
      return p.kept.tile(block, kept::kPerSlice * rank + index);
    };
    if (thread == 0) {
      mbar_expect(&s.part_bar, kPartBytes);
      mbar_expect(&s.do_bar, clamps ? kDoBytes + kKappaBytes : kDoBytes);
    }
    const bf16* in = layer ? stage.d2 : stage.k;
    const bf16* factor = layer ? stage.h : stage.d1;
    // Adjoint of W' = .. - F^T diag(g) In, S' = .. - F^T diag(p) In.
    Acc acc, back;
    Frag f, slope, reads;
    load_fragment(reads, p.kept.tile(block, (layer ? kept::kDh : kept::kDd1) + rank));
    load_fragment(slope, slice_tile(kept::kSlopeK));
    mbar_wait(&s.stage_bar[parity], (step >> 1) & 1);
    {
      wgmma_fence();
      product<1, false, false>(acc, in, s.adjoint[layer][0], false);
      product<1, false, false>(back, in, s.adjoint[layer][1], false);
      wgmma_commit();
      if (step + 1 < seg.chunks) prefetch(p, s, sequence, rank, step + 1, keys, last_row);
      load_frag(f, factor);
      wgmma_wait<0>();
      float dg[2] = {}, dp[2] = {};
      if constexpr (kOptions) {
        if (biased) {  // a bias is a weight whose input is 1
          settle(acc), settle(back);
          const float(&adjoint)[2][kTile] = s.biases[parity][layer];
          if (layer == 0) {
            constexpr float kOnes[2] = {1, 1};
            add_columns(acc, kOnes, adjoint[0]);
            add_columns(back, kOnes, adjoint[1]);
          } else if (rank == 0) {  // its tokens' owners see to the rest
            add_row_dots(dg, stage.d2, adjoint[0], row);
            add_row_dots(dp, stage.d2, adjoint[1], row);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float2 v = unpack(f[i]);
        dg[i & 1] = fmaf(acc[2 * i], v.x, fmaf(acc[2 * i + 1], v.y, dg[i & 1]));
        dp[i & 1] = fmaf(back[2 * i], v.x, fmaf(back[2 * i + 1], v.y, dp[i & 1]));
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        dg[i] = quad_sum(dg[i]), dp[i] = quad_sum(dp[i]);
        if ((lane & 3) == 0) {
          const int at = (2 * rank + layer) * kTile + row + 8 * i;
          p.kept.floats(block, kept::kDgRow)[at] = dg[i];
          p.kept.floats(block, kept::kDpRow)[at] = dp[i];
        }
      }
      const float g0 = g[row], g1 = g[row + 8], p0 = g[kTile + row], p1 = g[kTile + row + 8];
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float2 read = unpack(reads[i]);
        const float gs = (i & 1) ? g1 : g0, ps = (i & 1) ? p1 : p0;
        acc[2 * i] = fmaf(-gs, acc[2 * i], fmaf(-ps, back[2 * i], read.x));
        acc[2 * i + 1] = fmaf(-gs, acc[2 * i + 1], fmaf(-ps, back[2 * i + 1], read.y));
      }
      Frag gf, pf;
      scale_rows(gf, f, g0, g1);
      scale_rows(pf, f, p0, p1);
      wgmma_fence();
      product<-1, true>(back, gf, s.adjoint[layer][0], false);
      product<-1, true>(back, pf, s.adjoint[layer][1], true);
      wgmma_commit();
      if (layer == 0) load_fragment(reads, slice_tile(kept::kCurve));
      wgmma_wait<0>();
    }
    // acc: dD1 or dH so far; back: part of dK or of dD2.
    if (layer == 0) {
      Frag du;
      Frag& curve = reads;
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float2 d = unpack(slope[i]), c = unpack(curve[i]);
        du[i] = pack(acc[2 * i] * d.x, acc[2 * i + 1] * d.y);
        curve[i] = pack(acc[2 * i] * c.x, acc[2 * i + 1] * c.y);
      }
      store_frag(s.du, du);
      store_frag(s.dz, curve);
      fence_async();
    }
    // Asked for here, used while the sums travel.
    Frag m, xt;  // the reads' X or dZ1, [hidden, token]
    {
      const char* momenta =
          reinterpret_cast<const char*>(p.common.states + int64_t{block} * kStateElements +
                                        (4 * rank + 2 + layer) * kTileElements);
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        m[i] = *reinterpret_cast<const uint32_t*>(
            momenta + swizzle_offset(row + 8 * (i & 1), 8 * (i >> 1) + col));
      }
      load_fragment(xt, slice_tile(layer ? kept::kX : kept::kDz1));
    }
    const OwnToken own = load_own(p, sequence, block, first + own_row, own_row, own_valid);
    __syncthreads();
    if (layer == 1) {  // dU W2^T on top, then to the tokens' owners
      wgmma_fence();
      product<1, false, true>(back, s.du, stage.weights[1], true);
      wgmma_commit();
      wgmma_wait<0>();
      settle(back);
      const uint32_t there = map_rank(smem_address(part_here), owner);
      const uint32_t bar_there = map_rank(smem_address(&s.part_bar), owner);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int at = 8 * i * kPartStride + 8 * j;
          const float2 x = make_float2(back[4 * j + 2 * i], back[4 * j + 2 * i + 1]);
          if (owner == rank) {
            *reinterpret_cast<float2*>(part_here + at) = x;
          } else {
            send(there + 4 * at, make_uint2(__float_as_uint(x.x), __float_as_uint(x.y)), bar_there);
          }
        }
      }
      __syncwarp();
      if (owner == rank && lane == 0) mbar_arrive(&s.part_bar);
    }
    // While they travel: W' = A W + B S, S' = E S of the state, and the adjoints of A, B, E.
    {
      const float a = g[128], b = g[129], e = g[130];
      Frag w;
      load_frag(w, stage.weights[layer]);
      float dots[3] = {};
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float2 x = unpack(w[i]), y = unpack(m[i]);
        dots[0] = fmaf(dw[2 * i], x.x, fmaf(dw[2 * i + 1], x.y, dots[0]));
        dots[1] = fmaf(dw[2 * i], y.x, fmaf(dw[2 * i + 1], y.y, dots[1]));
        dots[2] = fmaf(ds[2 * i], y.x, fmaf(ds[2 * i + 1], y.y, dots[2]));
      }
      if constexpr (kOptions) {
        if (biased) {
          const OwnBias own_bias(biased, rank);
          *own_bias.at(s, 1 - parity) =
              bias_adjoint(p, s.biases[parity][layer], own_bias, sequence, block, g, dots);
        }
      }
#pragma unroll
      for (int i = 0; i < 3; ++i) dots[i] = warp_sum(dots[i]);
      if (kOptions && options.towards_initial) {
        dots[0] -= warp_sum(
            add_initial(options, sequence, sequence % seg.heads, block, rank, layer, 1 - a, dw));
      }
      if (lane == 0) {
        reinterpret_cast<float4*>(p.kept.floats(block, kept::kDots))[8 * rank + warp] =
            make_float4(dots[0], dots[1], dots[2], 0);
      }
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        ds[i] = fmaf(b, dw[i], e * ds[i]);
        dw[i] *= a;
      }
      // The reads' share: [hidden, token] times tokens scaled by A_t, B_t.
      Frag bx;
      scale_columns(bx, xt, s.read_scales[parity][1]);
      scale_columns(xt, xt, s.read_scales[parity][0]);
      mbar_wait(&s.reads_bar, parity);
      wgmma_fence();
      product<1, true>(dw, xt, s.reads[layer], true);
      product<1, true>(ds, bx, s.reads[layer], true);
      wgmma_commit();
      wgmma_wait<0>();
      settle(dw), settle(ds);
    }
    mbar_wait(&s.part_bar, parity);
    {
      float d_o[4], derr[4];
      float2 kappa;
      const float(*biases)[kTile] = nullptr;
      if constexpr (kOptions) {
        if (biased) biases = s.biases[parity][1];
      }
      delta_backward<kOptions>(p, s, stage, own, block, own_row, local, d_o, derr, dgain, dbias,
                               biases, g, kappa);
      const uint2 x = make_uint2(pack(d_o[0], d_o[1]), pack(d_o[2], d_o[3]));
      char* here = reinterpret_cast<char*>(s.d_o) + swizzle_offset(own_row, 4 * (lane & 15));
      *reinterpret_cast<uint2*>(here) = x;
#pragma unroll
      for (int i = 1; i < kRanks; ++i) {
        const int to = (rank + i) % kRanks;
        send(map_rank(smem_address(here), to), x, map_rank(smem_address(&s.do_bar), to));
      }
      if constexpr (kOptions) {
        if (clamps && (lane & 15) == 0) {
          float2* mine = &s.kappa[own_row];
          *mine = kappa;
#pragma unroll
          for (int i = 1; i < kRanks; ++i) {
            const int to = (rank + i) % kRanks;
            send(map_rank(smem_address(mine), to),
                 make_uint2(__float_as_uint(kappa.x), __float_as_uint(kappa.y)),
                 map_rank(smem_address(&s.do_bar), to));
          }
        }
      }
      __syncwarp();
      if (lane == 0) mbar_arrive(&s.do_bar);
      if (own_valid) {
        *reinterpret_cast<uint2*>(p.dv.at(seg, sequence, first + own_row) + 4 * (lane & 15)) =
            make_uint2(pack(-derr[0], -derr[1]), pack(-derr[2], -derr[3]));
      }
    }
    mbar_wait(&s.do_bar, parity);
    fence_async();
    if constexpr (kOptions) {
      // dD1 += kappa |K|^2 D1 in what follows from dD1; dH's share comes below.
      if (clamps) {
        const float low = s.kappa[row].x, high = s.kappa[row + 8].x;
        Frag d1, other;
        load_frag(d1, stage.d1);
        if (layer == 0) {
          load_frag(other, s.du);
          add_scaled(other, d1, slope, low, high);
          store_frag(s.du, other);
          fence_async();
        } else {
          Frag curve;
          load_fragment(curve, slice_tile(kept::kCurve));
          load_frag(other, s.dz);
          add_scaled(other, d1, curve, low, high);
          store_frag(s.dz, other);
          load_frag(other, stage.h);
#pragma unroll
          for (int i = 0; i < 16; ++i) {
            const float scale = s.kappa[row + 8 * (i & 1)].y;
            const float2 h = unpack(other[i]);
            acc[2 * i] = fmaf(scale, h.x, acc[2 * i]);
            acc[2 * i + 1] = fmaf(scale, h.y, acc[2 * i + 1]);
          }
          __syncwarp();
        }
      }
    }
    if (layer == 1) {
      wgmma_fence();
      product<1, false, false>(acc, s.d_o, stage.weights[1], true);
      wgmma_commit();
      load_frag(f, s.dz);
      wgmma_wait<0>();
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float2 d = unpack(slope[i]), c = unpack(f[i]);
        f[i] = pack(fmaf(acc[2 * i], d.x, c.x), fmaf(acc[2 * i + 1], d.y, c.y));
      }
      store_frag(s.dz, f);
      fence_async();
    }
    __syncthreads();
    if (thread == 0 && step + 1 < seg.chunks) load_reads(p, s, sequence, step + 1);
    wgmma_fence();
    if (layer == 0) {
      product<1, true, true>(dw, s.dz, stage.k, true);
      product<1, false, true>(back, s.dz, stage.weights[0], true);
    } else {
      product<1, true, true>(dw, s.du, stage.d2, true);
      product<1, true, true>(dw, stage.h, s.d_o, true);
    }
    wgmma_commit();
    wgmma_wait<0>();
    if (layer == 0) store_fragment(p.kept.tile(block, kept::kDkPart + rank), back);
    if constexpr (kOptions) {
      settle(dw);
      const bool begins = options.reset(sequence / seg.heads, chunk);
      if (begins) reset_adjoint(options, sequence, rank, layer, dw, ds);
      if (biased) finish_bias(options, s, OwnBias(biased, rank), sequence, 1 - parity, begins);
    }
    store_adjoint();
    copy_wait<0>();
    fence_async();
    __syncthreads();
  }
  store_slice(dw, layer ? p.out.w2 : p.out.w1, sequence, rank, layer);
  store_slice(ds, layer ? p.out.s2 : p.out.s1, sequence, rank, layer);
  if constexpr (kOptions) {
    const OwnBias own_bias(biased, rank);
    if (own_bias.speaks) {
      float* to = own_bias.which == 0 ? bias_at(p.out.c1, p.out.c2, sequence, own_bias.index)
                                      : bias_at(p.out.t1, p.out.t2, sequence, own_bias.index);
      if (to != nullptr) *to = *own_bias.at(s, seg.chunks & 1);
    }
  }
  float* parts = p.norm_parts + ((int64_t{sequence} * kRanks + rank) * kOwned + local) * 2 * kTile +
                 4 * (lane & 15);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    parts[i] = dgain[i] + (p.first ? 0 : parts[i]);
    parts[kTile + i] = dbias[i] + (p.first ? 0 : parts[kTile + i]);
  }
  cluster_sync();  // nobody leaves while its shared memory may still be written
}

template <bool kOptions>
void launch(const Params& p, cudaStream_t stream) {
  constexpr int kBytes = sizeof(std::conditional_t<kOptions, OptionStorage, SharedStorage>);
  static_assert(kBytes <= 227 * 1024);
  launch_kernel(scan_adjoint_kernel<kOptions>,
                {p.common.segment.sequences * kRanks, kThreads, kBytes, kRanks}, stream, p);
}

}  // namespace
}  // namespace mnemo::memory
