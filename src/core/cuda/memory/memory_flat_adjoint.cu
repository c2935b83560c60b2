// A memory of depth 1: the sequential half of its backward pass, chunk after chunk, last first. One
// warpgroup runs one sequence, with the adjoints of W and S in fp32 in registers and their operand
// copies in shared memory.
#include "src/core/cuda/memory/memory_flat_adjoint.cuh"

namespace mnemo::memory {
namespace {

template <bool kOptions, bool kNorm>
__global__ void __launch_bounds__(128, 1) flat_adjoint_kernel(const __grid_constant__ Params p) {
  MNEMO_SHARED_MEMORY(raw);
  using Storage = SharedStorage<kOptions, kNorm>;
  Storage& s = *reinterpret_cast<Storage*>(raw);
  constexpr bool kEarly = !kOptions && !kNorm;  // whether there are registers to fetch ahead
  const Options& o = p.common.options;
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, sequence = blockIdx.x;
  Acc dw, ds;
  load_slice(dw, p.in.w1, sequence, 0, false, 1);
  load_slice(ds, p.in.s1, sequence, 0, false, 1);
  const auto store_adjoint = [&] {
    Frag frag;
    to_frag(frag, dw), store_frag(s.adjoint[0], frag);
    to_frag(frag, ds), store_frag(s.adjoint[1], frag);
  };
  if (thread == 0) {
    mbar_init(&s.bars[0], 1), mbar_init(&s.bars[1], 1);
    mbar_init_fence();
    fence_async();
  }
  __syncthreads();
  prefetch(p, s, sequence, 0);
  if constexpr (kNorm) {
    load_norm(s.gain, s.bias, p.common, sequence % seg.heads);
    for_norm_parts(p, sequence,
                   [&](int which, int i, const float& x) { s.dnorm[which][i][thread] = x; });
  }
  store_adjoint();
  const bool biased = kOptions && o.biases;
  float bias = 0;  // the adjoint of this thread's
  if constexpr (kOptions) {
    if (biased) {
      const float* from = thread < kTile ? p.in.c1 : p.in.t1;
      bias = from == nullptr ? 0 : from[sequence * kTile + thread % kTile];
      s.biases.adjoint[0][thread / kTile][thread % kTile] = bias;
    }
  }
  copy_wait<0>();
  fence_async();
  __syncthreads();

  for (int step = 0; step < seg.chunks; ++step) {
    const int parity = step & 1, chunk = seg.chunks - 1 - step;
    const int block = sequence * seg.chunks + chunk;
    const bf16* k = s.k[parity];
    const float* g = s.coefficients[parity];
    const auto tile = [&](int index) { return p.kept.tile(block, index); };
    Acc acc, back;
    Frag d, reads_d, reads_w, reads_s, x;
    load_fragment(d, tile(flat_kept::kD));
    if constexpr (kEarly) load_fragment(reads_d, tile(flat_kept::kDd));
    wgmma_fence();
    product<1, false, false>(acc, k, s.adjoint[0], false);
    product<1, false, false>(back, k, s.adjoint[1], false);
    wgmma_commit();
    if (step + 1 < seg.chunks) prefetch(p, s, sequence, step + 1);
    if constexpr (kEarly) {
      load_fragment(reads_w, tile(flat_kept::kDw));
      load_fragment(reads_s, tile(flat_kept::kDs));
    }
    wgmma_wait<0>();
    settle(acc), settle(back);
    if constexpr (kOptions) {
      if (biased) {
        constexpr float kOnes[2] = {1, 1};
        add_columns(acc, kOnes, s.biases.adjoint[parity][0]);
        add_columns(back, kOnes, s.biases.adjoint[parity][1]);
      }
    }
    float dg[2] = {}, dp[2] = {};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float2 v = unpack(d[i]);
      dg[i & 1] = fmaf(acc[2 * i], v.x, fmaf(acc[2 * i + 1], v.y, dg[i & 1]));
      dp[i & 1] = fmaf(back[2 * i], v.x, fmaf(back[2 * i + 1], v.y, dp[i & 1]));
    }
    const float gs[2] = {g[row], g[row + 8]}, ps[2] = {g[kTile + row], g[kTile + row + 8]};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      dg[i] = quad_sum(dg[i]), dp[i] = quad_sum(dp[i]);
      if ((lane & 3) == 0) {
        p.kept.floats(block, flat_kept::kDgRow)[row + 8 * i] = dg[i];
        p.kept.floats(block, flat_kept::kDpRow)[row + 8 * i] = dp[i];
      }
    }
    if constexpr (!kEarly) load_fragment(reads_d, tile(flat_kept::kDd));
    // acc: the delta's adjoint, which without a norm is the output's and the error's.
    float key_scale[2] = {};
    Frag gd, pd;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float2 read = unpack(reads_d[i]), v = unpack(d[i]);
      acc[2 * i] = fmaf(-gs[i & 1], acc[2 * i], fmaf(-ps[i & 1], back[2 * i], read.x));
      acc[2 * i + 1] = fmaf(-gs[i & 1], acc[2 * i + 1], fmaf(-ps[i & 1], back[2 * i + 1], read.y));
      gd[i] = pack(gs[i & 1] * v.x, gs[i & 1] * v.y);
      pd[i] = pack(ps[i & 1] * v.x, ps[i & 1] * v.y);
    }
    wgmma_fence();
    product<-1, true>(back, gd, s.adjoint[0], false);
    product<-1, true>(back, pd, s.adjoint[1], true);
    wgmma_commit();
    const auto finish_back = [&] {  // early, for its operands' registers
      wgmma_wait<0>();
      settle(back);
    };
    if constexpr (kOptions && !kNorm) finish_back();
    if constexpr (kOptions) {
      if (o.clamps()) clamp_adjoint(o, block, acc, d, k, key_scale);
    }
    if constexpr (kNorm) {
      finish_back();
      norm_adjoint(p, s, block, parity, acc, back, d);
    }
    if constexpr (!kEarly) {
      load_fragment(reads_w, tile(flat_kept::kDw));
      load_fragment(reads_s, tile(flat_kept::kDs));
    }
    to_frag(x, acc);
    store_frag(s.d_o, x);
    mbar_wait(&s.bars[parity], (step >> 1) & 1);
    float dots[3] = {};
    if constexpr (kOptions) {
      if (o.towards_initial) dots[0] = -initial_adjoint(p, sequence, block, 1 - g[128], dw);
      if (biased) {
        bias = bias_adjoint(p, s.biases.adjoint[parity], sequence, block, g, dots);
        column_sums(acc, s.biases.parts);
      }
    }
    decay_adjoint(dw, ds, s.state[parity], reads_w, reads_s, g, dots,
                  reinterpret_cast<float4*>(p.kept.floats(block, flat_kept::kDots)) + warp);
    if constexpr (kNorm) {
      if (p.common.gates.alpha != nullptr) {
        add_fragment(dw, p.extra.tile(block, flat_extra::kDwLow));
        add_fragment(ds, p.extra.tile(block, flat_extra::kDsLow));
      }
    }
    fence_async();
    wgmma_wait<0>();
    settle(back);
    __syncthreads();
    wgmma_fence();
    product<1, true>(back, x, s.state[parity][0], true);
    product<1, true, true>(dw, s.d_o, k, true);
    wgmma_commit();
    load_fragment(reads_d, tile(flat_kept::kDk));
    if constexpr (!kNorm) {
#pragma unroll
      for (int i = 0; i < 16; ++i) d[i] = pack(-acc[2 * i], -acc[2 * i + 1]);
    }
    store_frag(s.dv, d);
    wgmma_wait<0>();
    settle(back), settle(dw);
    if constexpr (kOptions) {
      Frag keys;
      load_frag(keys, k);
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        const float2 v = unpack(keys[i]);
        back[2 * i] = fmaf(key_scale[i & 1], v.x, back[2 * i]);
        back[2 * i + 1] = fmaf(key_scale[i & 1], v.y, back[2 * i + 1]);
      }
      if (biased && thread < kTile) bias += sum_warps(s.biases.parts + thread);
      if (o.reset(sequence / seg.heads, chunk)) {
        reset_adjoint(o, sequence, dw, ds);
        if (biased && thread < kTile) o.dinitial_biases[sequence * kTile + thread] += bias;
        bias = 0;
      }
      if (biased) s.biases.adjoint[1 - parity][thread / kTile][thread % kTile] = bias;
    }
    // With a norm the errors' adjoint is there already.
    const float residual = !kNorm && p.common.residual ? 1 : 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float2 read = unpack(reads_d[i]);
      d[i] = pack(back[2 * i] + fmaf(residual, acc[2 * i], read.x),
                  back[2 * i + 1] + fmaf(residual, acc[2 * i + 1], read.y));
    }
    store_frag(s.dk, d);
    store_adjoint();
    copy_wait<0>();
    fence_async();
    __syncthreads();
    const int count = seg.count(chunk);
    write_rows(p.dk.at(seg, sequence, seg.first(chunk)), p.dk.token_stride, s.dk, count, thread);
    write_rows(p.dv.at(seg, sequence, seg.first(chunk)), p.dv.token_stride, s.dv, count, thread);
  }
  store_slice(dw, p.out.w1, sequence, 0, false, 1);
  store_slice(ds, p.out.s1, sequence, 0, false, 1);
  if (biased) {
    float* to = thread < kTile ? p.out.c1 : p.out.t1;
    if (to != nullptr) to[sequence * kTile + thread % kTile] = bias;
  }
  if constexpr (kNorm) {
    for_norm_parts(p, sequence, [&](int which, int i, float& x) { x = s.dnorm[which][i][thread]; });
  }
}

template <bool kOptions, bool kNorm>
void launch(const Params& p, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage<kOptions, kNorm>);
  launch_kernel(flat_adjoint_kernel<kOptions, kNorm>, {p.common.segment.sequences, 128, kBytes},
                stream, p);
}

}  // namespace

void launch_flat_adjoint(const CommonParams& p, const MemoryScanCarry& in,
                         const MemoryScanCarry& out, const Rows& dk, const Rows& dv,
                         const FlatKept& kept, float* norm_parts, cudaStream_t stream) {
  with_flat_instance(p, [&](auto options, auto norm) {
    launch<decltype(options)::value, decltype(norm)::value>(
        {p, in, out, dk, dv, kept, {p.options.kept.base}, norm_parts}, stream);
  });
}

}  // namespace mnemo::memory
