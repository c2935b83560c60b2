// Reads of chunks of sixteen tokens, in parallel over blocks, and their whole adjoint.
//
// A CTA holds a block's entire state in shared memory; warpgroup s has hidden slice s. What sums
// over hidden units (outputs, X H^T, dQ, ..) meets in shared memory, where then each warp works on
// one token. [hidden, token] products stay in registers from one matrix product to the next.
// CTAs go from block to block; the next state is fetched while the last tokens are finished.
#include <algorithm>

#include "src/core/cuda/memory/memory_narrow_read.cuh"

namespace mnemo::memory {
namespace {

// What one warpgroup carries from the reads to their adjoint.
struct SliceState {
  Columns h, x;
  Part slope_q;
};

// The adjoint of one slice's reads, from dz2 on: leaves dq's share in `part`, dZ1 D1^T in `pairs`.
__device__ void slice_adjoint(const Params& p, SharedStorage& s, const Place& at,
                              const SliceState& slice_state, int slice, int next) {
  const int thread = threadIdx.x, warp = thread >> 5;
  const auto tile = [&](int index) {
    return p.kept.tile(at.block, narrow_kept::kPerSlice * slice + index);
  };
  Part xw, xs;
  wgmma_fence();
  apply<false>(xw, s.state[slice][1], s.dz2);
  apply<false>(xs, s.state[slice][3], s.dz2);
  wgmma_commit();
  if ((warp & 3) == 0) {
    Part c;
    token_products(c, s.dz2, s.d2);
    if (slice == 0) store_pairs(s.t2, c);
    store_mask(s.mask2[slice], s.g, c);
    fence_async();
  }
  if (slice < 2 && (thread & 127) < kTile) {  // the norm's gradients
    const int f = thread & 127;
    float sum = 0;
#pragma unroll
    for (int t = 0; t < kNarrow; ++t) sum += s.part[slice][t][f];
    p.kept.floats(at.block, slice == 0 ? narrow_kept::kDgain : narrow_kept::kDbias)[f] = sum;
  }
  PerToken a, b, da = {}, db = {};
  load_per_token(a, s.a), load_per_token(b, s.b);
  wgmma_wait<0>();
  settle(xw), settle(xs);
  add_dots(da, xw, slice_state.x);
  add_dots(db, xs, slice_state.x);
  combine(xw, a, xs, b);
  group_sync(1 + slice);
  if ((thread & 127) == 0 && next >= 0)
    load_tile(p, s, next, slice, 1), load_tile(p, s, next, slice, 3);
  Part dh;
  wgmma_fence();
  to_reads(xw, slice_state.h, s.mask2[slice], true);
  to_keys(dh, slice_state.x, s.mask2[slice], false);
  wgmma_commit();
  wgmma_wait<0>();
  settle(xw), settle(dh);
  Columns c, dz;
  to_columns(c, dh);
  store_columns(tile(narrow_kept::kDh), c);
#pragma unroll
  for (int i = 0; i < 8; ++i) xw[i] *= slice_state.slope_q[i];
  to_columns(dz, xw);
  store_transposed(s.dz1[slice], dz);
  fence_async();
  group_sync(1 + slice);
  Part dd1;
  wgmma_fence();
  apply<true>(xw, s.state[slice][0], s.dz1[slice]);
  apply<true>(xs, s.state[slice][2], s.dz1[slice]);
  to_keys(dd1, dz, s.mask1, false);
  wgmma_commit();
  if ((warp & 3) == 0) {
    Part t1;
    token_products(t1, s.dz1[slice], s.d1[slice]);
    store_pairs(s.pairs_z[slice], t1);
    store_mask(s.mask2[slice], s.g, t1);
    fence_async();
  }
  load_transposed(c, s.tokens[at.parity].q);
  wgmma_wait<0>();
  settle(xw), settle(xs), settle(dd1);
  add_dots(da, xw, c);
  add_dots(db, xs, c);
  combine(xw, a, xs, b);
  group_sync(1 + slice);
  wgmma_fence();
  mix_to_reads(xw, s.tokens[at.parity].k, s.mask2[slice], true);
  wgmma_commit();
  wgmma_wait<0>();
  settle(xw);
  store_sums(s.part[slice], xw);
  to_columns(c, dd1);
  store_columns(tile(narrow_kept::kDd1), c);
  store_dots(s.dots[0][warp], da);
  store_dots(s.dots[1][warp], db);
}

// Keys of one slice: H and the activation's derivatives; its share of the output goes to `part`.
template <bool kBackward>
__device__ void slice_keys(const Params& p, SharedStorage& s, int slice, int round, Part& z,
                           Part& slope, Part& curve, Columns& h) {
  with_activation(p.common.gelu, [&](auto act) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      slope[i] = kBackward ? act.slope_and_curve(z[i], curve[i]) : act.value_and_slope(z[i]);
  });
  to_columns(h, z);
  store_transposed(s.h[slice], h);
  fence_async();
  group_sync(1 + slice);
  mbar_wait(&s.bars[slice][1], round & 1);
  wgmma_fence();
  apply<true>(z, s.state[slice][1], s.h[slice]);
  wgmma_commit();
}

template <bool kBackward>
__device__ void run_block(const Params& p, SharedStorage& s, const Place& at, int round, int slice,
                          int next) {
  const int thread = threadIdx.x, warp = thread >> 5;
  const bool fetches = (thread & 127) == 0 && next >= 0;
  const bf16 *w1 = s.state[slice][0], *w2 = s.state[slice][1];
  const bf16 *s1 = s.state[slice][2], *s2 = s.state[slice][3];
  const Tokens& tokens = s.tokens[at.parity];
  SliceState state;
  Part z, slope, curve, zw, zs;
  mbar_wait(&s.bars[slice][0], round & 1);
  wgmma_fence();
  apply<false>(z, w1, tokens.k);
  wgmma_commit();
  wgmma_wait<0>();
  settle(z);
  slice_keys<kBackward>(p, s, slice, round, z, slope, curve, state.h);
  mbar_wait(&s.bars[slice][2], round & 1);
  wgmma_fence();
  apply<false>(zw, w1, tokens.q);
  apply<false>(zs, s1, tokens.q);
  wgmma_commit();
  wgmma_wait<0>();
  settle(z), settle(zw), settle(zs);
  store_sums(s.part[slice], z);
  __syncthreads();
  if (!kBackward && fetches) load_tile(p, s, next, slice, 0), load_tile(p, s, next, slice, 2);
  if (slice == 0) make_deltas<kBackward>(p, s, at);
  if (warp == 4) make_mask(s, at.parity);
  fence_async();
  __syncthreads();
  wgmma_fence();
  apply<false>(z, w2, s.d2);
  wgmma_commit();
  PerToken a, b;
  load_per_token(a, s.a), load_per_token(b, s.b);
  combine(zw, a, zs, b);
  wgmma_wait<0>();
  settle(z);
  Columns d1;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (kBackward) curve[i] *= z[i];
    z[i] *= slope[i];
  }
  to_columns(d1, z);
  wgmma_fence();
  to_reads(zw, d1, s.mask1, true);
  wgmma_commit();
  if (kBackward) {
    const auto tile = [&](int index) {
      return p.kept.tile(at.block, narrow_kept::kPerSlice * slice + index);
    };
    Columns c;
    store_transposed(s.d1[slice], d1);
    to_columns(c, slope), store_columns(tile(narrow_kept::kSlope), c);
    to_columns(c, curve), store_columns(tile(narrow_kept::kCurve), c);
  }
  wgmma_wait<0>();
  settle(zw);
  with_activation(p.common.gelu, [&](auto act) {
#pragma unroll
    for (int i = 0; i < 8; ++i) state.slope_q[i] = act.value_and_slope(zw[i]);
  });
  to_columns(state.x, zw);
  store_transposed(s.x[slice], state.x);
  fence_async();
  group_sync(1 + slice);
  mbar_wait(&s.bars[slice][3], round & 1);
  wgmma_fence();
  apply<true>(zw, w2, s.x[slice]);
  apply<true>(zs, s2, s.x[slice]);
  wgmma_commit();
  if ((warp & 3) == 0) {
    Part c;
    token_products(c, s.x[slice], s.h[slice]);
    if (kBackward) store_pairs(s.pairs[slice], c);
    store_mask(s.mask2[slice], s.g, c);
    fence_async();
  }
  wgmma_wait<0>();
  settle(zw), settle(zs);
  combine(zw, a, zs, b);
  group_sync(1 + slice);
  wgmma_fence();
  mix_to_reads(zw, s.d2, s.mask2[slice], true);
  wgmma_commit();
  wgmma_wait<0>();
  settle(zw);
  store_sums(s.part[slice], zw);
  __syncthreads();
  if (!kBackward && fetches) load_tile(p, s, next, slice, 1), load_tile(p, s, next, slice, 3);
  if (slice == 0) finish_reads<kBackward>(p, s, at);
  fence_async();
  __syncthreads();
  if (kBackward) {
    slice_adjoint(p, s, at, state, slice, next);
    __syncthreads();
    if (fetches) load_tile(p, s, next, slice, 0), load_tile(p, s, next, slice, 2);
  }
}

__device__ void store_images(const Params& p, SharedStorage& s, const Place& at) {
  for (int slice = 0; slice < kSlices; ++slice) {
    bf16* to = p.kept.tile(at.block, narrow_kept::kPerSlice * slice);
    bulk_store(to + narrow_kept::kH * kNarrowElements, s.h[slice], kNarrowBytes);
    bulk_store(to + narrow_kept::kD1 * kNarrowElements, s.d1[slice], kNarrowBytes);
    bulk_store(to + narrow_kept::kX * kNarrowElements, s.x[slice], kNarrowBytes);
    bulk_store(to + narrow_kept::kDz * kNarrowElements, s.dz1[slice], kNarrowBytes);
  }
  bulk_store(p.kept.tile(at.block, narrow_kept::kD2), s.d2, kNarrowBytes);
  bulk_store(p.kept.tile(at.block, narrow_kept::kDz2), s.dz2, kNarrowBytes);
  bulk_commit();
}

template <bool kBackward>
__global__ void __launch_bounds__(kThreads, 1)
    narrow_read_kernel(const __grid_constant__ Params p) {
  MNEMO_SHARED_MEMORY(raw);
  SharedStorage& s = *reinterpret_cast<SharedStorage*>(raw);
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x, blocks = seg.sequences * seg.chunks;
  const int slice = __shfl_sync(0xffffffffu, thread >> 7, 0);  // told to be uniform
  if (thread == 0) {
    for (int i = 0; i < 4 * kSlices; ++i) mbar_init(&s.bars[i / 4][i % 4], 1);
    mbar_init_fence();
    fence_async();
  }
  __syncthreads();
  if ((thread & 127) == 0)
    for (int i = 0; i < 4; ++i) load_tile(p, s, blockIdx.x, slice, i);
  load_tokens<kBackward>(p, s, Place(seg, blockIdx.x, 0));
  int round = 0;
  for (int block = blockIdx.x; block < blocks; block += gridDim.x, ++round) {
    const int following = block + static_cast<int>(gridDim.x);
    const int next = following < blocks ? following : -1;
    copy_wait<0>();
    if (kBackward && thread == 0) bulk_wait_read();  // the last block's tiles
    fence_async();
    __syncthreads();
    const Place at(seg, block, round);
    if (next >= 0) load_tokens<kBackward>(p, s, Place(seg, next, round + 1));
    run_block<kBackward>(p, s, at, round, slice, next);
    if (kBackward) {
      if (thread == 0) store_images(p, s, at);
      finish_adjoint(p, s, at);
    }
  }
  if (kBackward && thread == 0) bulk_wait();
}

template <bool kBackward>
void launch(const Params& p, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage);
  static_assert(kBytes <= 227 * 1024);
  int device = 0, processors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  const int blocks = p.common.segment.sequences * p.common.segment.chunks;
  const int grid = std::min(blocks, processors);
  launch_kernel(narrow_read_kernel<kBackward>, {grid, kThreads, kBytes}, stream, p);
}

}  // namespace

void launch_narrow_read(const CommonParams& p, const Rows& y, cudaStream_t stream) {
  launch<false>({p, y, {}, {nullptr}}, stream);
}

void launch_narrow_read_backward(const CommonParams& p, const Rows& dy, const Rows& dq,
                                 const NarrowKept& kept, cudaStream_t stream) {
  launch<true>({p, dy, dq, kept}, stream);
}

}  // namespace mnemo::memory
