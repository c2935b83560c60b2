// A memory of depth 1 without layer norm: the sequential half of its backward pass, chunk after
// chunk, last first. One warpgroup runs one sequence, with the adjoints of W and S in fp32 in
// registers and their operand copies in shared memory.
#include "src/core/cuda/memory/memory_rows.cuh"
#include "src/core/cuda/memory/memory_slice.cuh"

namespace mnemo::memory {
namespace {

struct SharedStorage {
  alignas(1024) bf16 state[2][2][kTileElements];  // W, S [out, in], this chunk's and the next one's
  bf16 k[2][kTileElements];
  bf16 adjoint[2][kTileElements];  // dW, dS [out, in]
  bf16 d_o[kTileElements];         // [token, out]
  bf16 dk[kTileElements], dv[kTileElements];
  float coefficients[2][kCoefficients];
  uint64_t bars[2];
};

struct Params {
  CommonParams common;
  MemoryScanCarry in, out;
  Rows dk, dv;
  FlatKept kept;
};

__device__ void prefetch(const Params& p, SharedStorage& s, int sequence, int step) {
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
  if (thread < kCoefficients / 4) {
    copy_async(smem_address(&s.coefficients[slot][4 * thread]),
               p.common.coefficients + int64_t{block} * kCoefficients + 4 * thread, true);
  }
  copy_commit();
}

// W' = A W + B S, S' = E S taken back with the reads' part, and the adjoints of A, B, E.
__device__ void decay_adjoint(Acc& dw, Acc& ds, const bf16 (&state)[2][kTileElements],
                              const Frag& reads_w, const Frag& reads_s, const float* g,
                              float4* out) {
  const float a = g[128], b = g[129], e = g[130];
  float dots[3] = {};
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

__global__ void __launch_bounds__(128, 1) flat_adjoint_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) char raw[];
  SharedStorage& s = *reinterpret_cast<SharedStorage*>(raw);
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
  store_adjoint();
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
    load_fragment(reads_d, tile(flat_kept::kDd));
    wgmma_fence();
    product<1, false, false>(acc, k, s.adjoint[0], false);
    product<1, false, false>(back, k, s.adjoint[1], false);
    wgmma_commit();
    if (step + 1 < seg.chunks) prefetch(p, s, sequence, step + 1);
    load_fragment(reads_w, tile(flat_kept::kDw));
    load_fragment(reads_s, tile(flat_kept::kDs));
    wgmma_wait<0>();
    settle(acc), settle(back);
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
    // acc: the delta's adjoint, which without a norm is the output's and the error's.
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
    to_frag(x, acc);
    store_frag(s.d_o, x);
    mbar_wait(&s.bars[parity], (step >> 1) & 1);
    decay_adjoint(dw, ds, s.state[parity], reads_w, reads_s, g,
                  reinterpret_cast<float4*>(p.kept.floats(block, flat_kept::kDots)) + warp);
    fence_async();
    wgmma_wait<0>();
    settle(back);
    __syncthreads();
    wgmma_fence();
    product<1, true>(back, x, s.state[parity][0], true);
    product<1, true, true>(dw, s.d_o, k, true);
    wgmma_commit();
    load_fragment(reads_d, tile(flat_kept::kDk));
#pragma unroll
    for (int i = 0; i < 16; ++i) d[i] = pack(-acc[2 * i], -acc[2 * i + 1]);
    store_frag(s.dv, d);
    wgmma_wait<0>();
    settle(back), settle(dw);
    const float residual = p.common.residual ? 1 : 0;
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
}

}  // namespace

void launch_flat_adjoint(const CommonParams& p, const MemoryScanCarry& in,
                         const MemoryScanCarry& out, const Rows& dk, const Rows& dv,
                         const FlatKept& kept, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage);
  cudaFuncSetAttribute(flat_adjoint_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  flat_adjoint_kernel<<<p.segment.sequences, 128, kBytes, stream>>>({p, in, out, dk, dv, kept});
}

}  // namespace mnemo::memory
