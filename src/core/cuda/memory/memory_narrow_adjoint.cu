// The sequential half of the backward pass for chunks of sixteen tokens: the state's adjoint,
// chunk after chunk, last first.
//
// A cluster of two CTAs runs one sequence, with a warpgroup for each of a CTA's two hidden slices
// and each layer, which keeps the adjoints of that layer's W and S in fp32 in registers and their
// operand copies in shared memory. The two layers do the same thing to W' = .. - F^T diag(g) In
// (F = D1, In = K below; F = H, In = D2 above) and meet where dU goes up into dD2 and dO comes
// down into dH; what neither waits for is done while dD2 travels. Only dD2 crosses the cluster:
// both CTAs take all sixteen tokens through the layer norm's second derivative. The reads' part of
// dW and dS is formed here, from the reads' adjoints: sixteen tokens are one step of the matrix
// instructions.
#include "src/core/cuda/memory/memory_narrow_adjoint.cuh"

namespace mnemo::memory {
namespace {

__global__ void __cluster_dims__(kRanks, 1, 1) __launch_bounds__(kThreads, 1)
    narrow_adjoint_kernel(const __grid_constant__ Params p) {
  MNEMO_SHARED_MEMORY(raw);
  SharedStorage& s = *reinterpret_cast<SharedStorage*>(raw);
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x;
  const int warp = __shfl_sync(0xffffffffu, thread >> 5, 0);
  const int group = warp >> 2, slice = group >> 1, layer = group & 1;
  const int rank = static_cast<int>(cluster_rank());
  const int sequence = blockIdx.x / kRanks;
  const int hidden_slice = 2 * rank + slice;

  Acc dw, ds;
  load_slice(dw, layer ? p.in.w2 : p.in.w1, sequence, hidden_slice, layer);
  load_slice(ds, layer ? p.in.s2 : p.in.s1, sequence, hidden_slice, layer);
  bf16(&adjoint)[2][kTileElements] = s.adjoint[slice][layer];
  const auto store_adjoint = [&] {
    Frag frag;
    to_frag(frag, dw), store_frag(adjoint[0], frag);
    to_frag(frag, ds), store_frag(adjoint[1], frag);
  };
  if (thread == 0) {
    for (int i = 0; i < 2; ++i) {
      mbar_init(&s.stage_bar[i], 1);
      mbar_init(&s.part_bar[i], 1 + 8);  // the other CTA's bytes, this one's lower layer's warps
    }
    mbar_init_fence();
    fence_async();
  }
  prefetch(p, s, sequence, rank, 0);
  const TokenLane<kLanes> me(4 * slice + (warp & 3));  // the upper layer's warps work on tokens
  Columns reads, slope, curve;  // of the step's chunk, asked for a step ahead
  const auto load_step = [&](int step) {
    const bf16* record = p.kept.tile(sequence * seg.chunks + seg.chunks - 1 - step,
                                     narrow_kept::kPerSlice * hidden_slice);
    load_columns(reads, record + (layer ? narrow_kept::kDh : narrow_kept::kDd1) * kNarrowElements);
    if (layer == 0) {
      load_columns(slope, record + narrow_kept::kSlope * kNarrowElements);
      load_columns(curve, record + narrow_kept::kCurve * kNarrowElements);
    }
  };
  load_step(0);
  store_adjoint();
  copy_wait<0>();
  fence_async();
  cluster_sync();

  for (int step = 0; step < seg.chunks; ++step) {
    const int parity = step & 1, chunk = seg.chunks - 1 - step;
    const int block = sequence * seg.chunks + chunk;
    Stage& stage = s.stage[parity];
    bf16(&images)[kImages][kNarrowElements] = stage.images[slice];
    const float* g = s.coefficients[parity];
    if (thread == 0) mbar_expect(&s.part_bar[parity], kPartBytes);
    const bf16* factor = images[layer ? narrow_kept::kH : narrow_kept::kD1];
    Sums& sums = s.part[parity][hidden_slice];
    Part x, y;
    mbar_wait(&s.stage_bar[parity], (step >> 1) & 1);
    wgmma_fence();
    if (layer == 0) {
      apply<false>(x, adjoint[0], stage.k);
      apply<false>(y, adjoint[1], stage.k);
    } else {
      apply<true>(x, adjoint[0], factor);
      apply<true>(y, adjoint[1], factor);
    }
    wgmma_commit();
    if (step + 1 < seg.chunks) prefetch(p, s, sequence, rank, step + 1);
    wgmma_wait<0>();
    settle(x), settle(y);
    float* dg = p.kept.floats(block, narrow_kept::kDgRow) + (16 * rank + warp) * kNarrow;
    float* dp = p.kept.floats(block, narrow_kept::kDpRow) + (16 * rank + warp) * kNarrow;
    if (layer == 0) {
      Columns c;
      Part d;
      factor_adjoint(x, y, factor, reads, g, dg, dp);  // x: dD1
      to_part(d, slope);
#pragma unroll
      for (int i = 0; i < 8; ++i) d[i] *= x[i];
      to_columns(c, d);
      store_transposed(s.du[slice], c);
      to_part(d, curve);
#pragma unroll
      for (int i = 0; i < 8; ++i) d[i] *= x[i];
      to_columns(curve, d);  // from here on dD1 o U o act''
      fence_async();
    } else {
      input_adjoint(x, y, g);
      store_sums(sums, x);
    }
    group_sync(8 + slice, 256);
    Frag momenta;  // used while the sums travel
    load_stored(momenta, p.common.states + int64_t{block} * kStateElements +
                             (4 * hidden_slice + 2 + layer) * kTileElements);
    if (layer == 0) {  // dU W2^T on top of the upper layer's part, then to both CTAs
      load_sums(x, sums);
      wgmma_fence();
      apply<true>(x, stage.weights[slice][1], s.du[slice], true);
      wgmma_commit();
      wgmma_wait<0>();
      settle(x);
      __syncwarp();
      send_sums(x, sums, &s.part_bar[parity], 1 - rank);
    } else {
      Columns c;
      wgmma_fence();
      apply<false>(x, adjoint[0], stage.d2);
      apply<false>(y, adjoint[1], stage.d2);
      wgmma_commit();
      wgmma_wait<0>();
      settle(x), settle(y);
      factor_adjoint(x, y, factor, reads, g, dg, dp);  // x: dH so far
      to_columns(c, x);
      s.dh[slice][thread & 127] = make_uint4(c[0], c[1], c[2], c[3]);
    }
    decay_adjoint(
        dw, ds, stage.weights[slice][layer], momenta, g,
        reinterpret_cast<float4*>(p.kept.floats(block, narrow_kept::kDots)) + 16 * rank + warp);
    if (layer == 0) {
      add_reads(dw, ds, images[narrow_kept::kDz], stage.q, s.decay[parity]);
    } else {
      const bool valid = me.token < seg.count(chunk);
      const int64_t row = seg.first(chunk) + (valid ? me.token : 0);
      const Token token(p, sequence, block, me, row, valid);
      add_reads(dw, ds, images[narrow_kept::kX], stage.dz2, s.decay[parity]);
      mbar_wait(&s.part_bar[parity], (step >> 1) & 1);
      Row d_o, derr, key, total, gain, bias;
      load_floats(gain, p.common.gain + sequence % seg.heads * kTile + me.f);
      load_floats(bias, p.common.bias + sequence % seg.heads * kTile + me.f);
      load_features(key, stage.k, me.token, me.f);
      load_total(total, s.part[parity], 2 * kRanks, me.token, me.f);
      NormGradient norm;
#pragma unroll
      for (float& v : key) v = p.common.residual ? v : 0;
      delta_backward(token, key, total, gain, bias, d_o, derr, norm);
      store_features(s.d_o, me.token, me.f, d_o);
      if ((me.token & 1) == rank) {  // of the two CTAs' copies one counts
        float* parts = p.norm_parts + (int64_t{sequence} * kNarrow + me.token) * 2 * kTile + me.f;
        add_floats(parts, norm.gain);
        add_floats(parts + kTile, norm.bias);
#pragma unroll
        for (float& v : derr) v = -v;
        if (valid) store_row(p.dv.at(seg, sequence, row) + me.f, derr);
      }
    }
    fence_async();
    if (thread == 0) bulk_wait_read();  // the last chunk's share of dK has left
    __syncthreads();
    if (layer == 0) {
      Part d;
      Columns c;
      const uint4 v = s.dh[slice][thread & 127];
      c[0] = v.x, c[1] = v.y, c[2] = v.z, c[3] = v.w;
      to_part(d, c);
      wgmma_fence();
      apply<false>(d, stage.weights[slice][1], s.d_o, true);
      wgmma_commit();
      apply<true>(x, adjoint[0], factor);
      apply<true>(y, adjoint[1], factor);
      wgmma_commit();
      wgmma_wait<0>();
      settle(d), settle(x), settle(y);
      input_adjoint(x, y, g);
      to_part(y, slope);
#pragma unroll
      for (int i = 0; i < 8; ++i) d[i] *= y[i];
      to_part(y, curve);
#pragma unroll
      for (int i = 0; i < 8; ++i) d[i] += y[i];
      to_columns(c, d);
      store_transposed(s.dz[slice], c);
      fence_async();
      group_sync(1 + group);
      wgmma_fence();
      outer<1>(dw, c, stage.k);
      apply<true>(x, stage.weights[slice][0], s.dz[slice], true);
      wgmma_commit();
      wgmma_wait<0>();
      settle(x), settle(dw);
      group_sync(1 + group);  // dz has been read: its tile takes dK
      to_columns(c, x);
      store_transposed(s.dz[slice], c);
    } else {
      Columns h;
      load_transposed(h, factor);
      wgmma_fence();
      outer<1>(dw, s.du[slice], stage.d2);
      outer<1>(dw, h, s.d_o);
      wgmma_commit();
      wgmma_wait<0>();
      settle(dw);
    }
    store_adjoint();
    if (step + 1 < seg.chunks) load_step(step + 1);
    copy_wait<0>();
    fence_async();
    __syncthreads();
    if (thread == 0) {
      for (int i = 0; i < 2; ++i)
        bulk_store(p.kept.tile(block, narrow_kept::kDkPart + 2 * rank + i), s.dz[i], kNarrowBytes);
      bulk_commit();
    }
  }
  store_slice(dw, layer ? p.out.w2 : p.out.w1, sequence, hidden_slice, layer);
  store_slice(ds, layer ? p.out.s2 : p.out.s1, sequence, hidden_slice, layer);
  if (thread == 0) bulk_wait();
  cluster_sync();  // nobody leaves while its shared memory may still be written
}

}  // namespace

void launch_narrow_adjoint(const CommonParams& p, const MemoryScanCarry& in,
                           const MemoryScanCarry& out, const Rows& dv, const NarrowKept& kept,
                           float* norm_parts, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage);
  static_assert(kBytes <= 227 * 1024);
  launch_kernel(narrow_adjoint_kernel, {p.segment.sequences * kRanks, kThreads, kBytes, kRanks},
                stream, {p, in, out, dv, kept, norm_parts});
}

}  // namespace mnemo::memory
