// Reads of chunks of sixteen tokens, in parallel over blocks, and their whole adjoint.
//
// A CTA holds a block's entire state in shared memory; warpgroup s has hidden slice s. What sums
// over hidden units (outputs, X H^T, dQ, ..) meets in shared memory, where then each warp works on
// one token. [hidden, token] products stay in registers from one matrix product to the next.
// CTAs go from block to block; the next state is fetched while the last tokens are finished.
#include <algorithm>

#include "src/core/cuda/memory/memory_narrow.cuh"

namespace mnemo::memory {
namespace {

constexpr int kThreads = 128 * kSlices;
constexpr int kPairStride = 17;
constexpr int kLanes = 8;  // a token

using Pairs = float[kNarrow][kPairStride];  // [t, s]

struct Tokens {
  bf16 q[kNarrowElements], k[kNarrowElements], v[kNarrowElements], dy[kNarrowElements];
};

struct SharedStorage {
  alignas(1024) bf16 state[kSlices][4][kTileElements];  // W1, W2^T, S1, S2^T
  Tokens tokens[2];                                     // this block's and the next one's
  bf16 h[kSlices][kNarrowElements], d1[kSlices][kNarrowElements];   // [token, hidden]
  bf16 x[kSlices][kNarrowElements], dz1[kSlices][kNarrowElements];  // [token, hidden]
  bf16 d2[kNarrowElements], dz2[kNarrowElements];                   // [token, f]
  bf16 mask1[kNarrowElements];                                      // G o Q K^T
  bf16 mask2[kSlices]
            [kNarrowElements];  // by warpgroup: its part of the second layer's, then others
  Sums part[kSlices];
  Pairs pairs[kSlices], pairs_z[kSlices];  // by slice: X H^T, dZ1 D1^T
  Pairs g, r1, t2;                         // G, Q K^T, dZ2 D2^T
  float gates[2][3][kNarrow];              // theta, eta, alpha
  float a[kNarrow], b[kNarrow];            // A_t, B_t
  float dots[2][kThreads / 32][kNarrow];   // dL/dA_t, dL/dB_t by warp
  uint64_t bars[kSlices][4];               // the state's tiles
};

struct Params {
  CommonParams common;
  Rows y;           // reading: out; backward: dy
  Rows dq;          // backward only
  NarrowKept kept;  // backward only
};

struct Place {  // of a block, and which of the two token buffers it uses
  int block, chunk, batch, head, count, parity;
  int64_t first;
  __device__ Place(const Segment& seg, int block, int round) : block(block), parity(round & 1) {
    const int sequence = block / seg.chunks;
    chunk = block - sequence * seg.chunks;
    batch = sequence / seg.heads, head = sequence - batch * seg.heads;
    count = seg.count(chunk), first = seg.first(chunk);
  }
};

// A tile of the caller's slice for a later block; by one thread, once its warpgroup is done with
// the tile.
__device__ void load_tile(const Params& p, SharedStorage& s, int block, int slice, int index) {
  mbar_expect(&s.bars[slice][index], kTileBytes);
  bulk_load(s.state[slice][index],
            p.common.states + int64_t{block} * kStateElements + (4 * slice + index) * kTileElements,
            kTileBytes, &s.bars[slice][index]);
}

__device__ void copy_float_async(float* to, const float* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(smem_address(to)), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}

template <bool kBackward>
__device__ void load_tokens(const Params& p, SharedStorage& s, const Place& at) {
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x, part = thread >> 7;
  const Rows& rows = part == 0 ? p.common.q : part == 1 ? p.common.k : part == 2 ? p.common.v : p.y;
  Tokens& tokens = s.tokens[at.parity];
  bf16* tile = part == 0 ? tokens.q : part == 1 ? tokens.k : part == 2 ? tokens.v : tokens.dy;
  if (kBackward || part < 3)
    copy_narrow_async(tile, rows.at(at.batch, at.head, at.first), rows.token_stride, at.count,
                      thread & 127);
  if (thread < 3 * kNarrow) {
    const int gate = thread / kNarrow, t = thread % kNarrow;
    const MemoryScanGates& gates = p.common.gates;
    const float* from = gate == 0 ? gates.theta : gate == 1 ? gates.eta : gates.alpha;
    const bool valid = t < at.count && from != nullptr;
    const int64_t index = (at.batch * seg.tokens + at.first + t) * seg.heads + at.head;
    copy_float_async(&s.gates[at.parity][gate][t], valid ? from + index : gates.theta, valid);
  }
  copy_commit();
}

__device__ void store_pairs(Pairs& to, const Part& c) {
  const int row = (threadIdx.x & 31) / 4, col = 2 * (threadIdx.x & 3);
#pragma unroll
  for (int i = 0; i < 8; ++i) to[row + (i & 2) * 4][col + 8 * (i >> 2) + (i & 1)] = c[i];
}

// G o c into a mask's tile.
__device__ void store_mask(bf16* tile, const Pairs& g, const Part& c) {
  const int row = (threadIdx.x & 31) / 4, col = 2 * (threadIdx.x & 3);
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const int t = row + (i & 2) * 4, u = col + 8 * (i >> 2);
    store_pair(tile, t, u, g[t][u] * c[i], g[t][u + 1] * c[i + 1]);
  }
}

// By one warp, beside the deltas: G, A, B, Q K^T and the mask of the first layer. A lane is a
// column of G's recurrence; B is one more column (with E in the place of P), A another (P = 0,
// starting from 1).
__device__ void make_mask(SharedStorage& s, int parity) {
  const int lane = threadIdx.x & 31;
  const float* theta = s.gates[parity][0];
  const float *eta = s.gates[parity][1], *alpha = s.gates[parity][2];
  const float own_theta = lane < kNarrow ? theta[lane] : 0;
  float p = lane == kNarrow ? 1 : 0, g = lane == kNarrow + 1 ? 1 : 0;
#pragma unroll
  for (int t = 0; t < kNarrow; ++t) {
    p = t == lane ? own_theta : p * eta[t];
    g = fmaf(g, 1 - alpha[t], p);
    if (lane < kNarrow) s.g[t][lane] = g;
    if (lane == kNarrow) s.b[t] = g;
    if (lane == kNarrow + 1) s.a[t] = g;
  }
  __syncwarp();
  Part c;
  token_products(c, s.tokens[parity].q, s.tokens[parity].k);
  store_pairs(s.r1, c);
  store_mask(s.mask1, s.g, c);
}

__device__ float sum_slices(const Pairs* pairs, int t, int u) {
  float sum = pairs[0][t][u];
#pragma unroll
  for (int i = 1; i < kSlices; ++i) sum += pairs[i][t][u];
  return sum;
}

using Row = Features<kTile / kLanes>;

struct Norm {  // gain and bias of this thread's features
  Row gain, bias;
  __device__ Norm(const CommonParams& p, const Place& at, int f) {
    load_floats(gain, p.gain + at.head * kTile + f);
    load_floats(bias, p.bias + at.head * kTile + f);
  }
};

// Outputs of the key pass to the last layer's deltas; by the first warpgroup.
template <bool kBackward>
__device__ void make_deltas(const Params& p, SharedStorage& s, const Place& at) {
  const TokenLane<kLanes> me(threadIdx.x >> 5);
  const Norm norm(p.common, at, me.f);
  TokenNorm<kLanes> n;
  Row x, key, value;
  load_total(x, s.part, kSlices, me.token, me.f);
  n.normalize(x, p.common.epsilon);
  load_features(value, s.tokens[at.parity].v, me.token, me.f);
  load_features(key, s.tokens[at.parity].k, me.token, me.f);
#pragma unroll
  for (int i = 0; i < TokenNorm<kLanes>::n; ++i) {
    const float error =
        fmaf(norm.gain[i], n.xhat[i], norm.bias[i]) + (p.common.residual ? key[i] : 0) - value[i];
    x[i] = norm.gain[i] * error;
  }
  n.project(x);
  store_features(s.d2, me.token, me.f, x);
  if (!kBackward) return;
  store_floats(
      reinterpret_cast<float*>(p.kept.tile(at.block, narrow_kept::kXhat)) + me.token * kTile + me.f,
      n.xhat);
  if (me.f == 0) p.kept.floats(at.block, narrow_kept::kInvDeviation)[me.token] = n.r;
}

// The reads' outputs, with kBackward dy back through the norm instead; by the first warpgroup.
template <bool kBackward>
__device__ void finish_reads(const Params& p, SharedStorage& s, const Place& at) {
  const TokenLane<kLanes> me(threadIdx.x >> 5);
  const Norm norm(p.common, at, me.f);
  constexpr int n = TokenNorm<kLanes>::n;
  TokenNorm<kLanes> read;
  Row x, y;
  load_total(x, s.part, kSlices, me.token, me.f);
  read.normalize(x, p.common.epsilon);
  if (!kBackward) {
    load_features(y, s.tokens[at.parity].q, me.token, me.f);
#pragma unroll
    for (int i = 0; i < n; ++i)
      x[i] = fmaf(norm.gain[i], read.xhat[i], norm.bias[i]) + (p.common.residual ? y[i] : 0);
    if (me.token < at.count) store_row(p.y.at(at.batch, at.head, at.first + me.token) + me.f, x);
    return;
  }
  load_features(y, s.tokens[at.parity].dy, me.token, me.f);
#pragma unroll
  for (int i = 0; i < n; ++i) x[i] = norm.gain[i] * y[i];
  read.project(x);
  store_features(s.dz2, me.token, me.f, x);
  // A token's rows of the sums are its lanes' own: they take what the norm's gradients sum.
#pragma unroll
  for (int i = 0; i < n; ++i) x[i] = y[i] * read.xhat[i];
  store_floats(&s.part[0][me.token][me.f], x);
  store_floats(&s.part[1][me.token][me.f], y);
}

__device__ void finish_dq(const Params& p, SharedStorage& s, const Place& at) {
  const TokenLane<kLanes> me(threadIdx.x >> 5);
  Row x, dy;
  load_total(x, s.part, kSlices, me.token, me.f);
  load_features(dy, s.tokens[at.parity].dy, me.token, me.f);
#pragma unroll
  for (int i = 0; i < TokenNorm<kLanes>::n; ++i) x[i] += p.common.residual ? dy[i] : 0;
  if (me.token < at.count) store_row(p.dq.at(at.batch, at.head, at.first + me.token) + me.f, x);
}

// Minus x^T times the summed mask, into an image: the reads' share of dK or dD2. One warpgroup.
__device__ void finish_key_side(SharedStorage& s, const Pairs* pairs, const bf16* x, bf16* image) {
  const int thread = threadIdx.x & 127, group = threadIdx.x >> 7;
  const int t = thread >> 3, u = 2 * (thread & 7);
  bf16* tile = s.mask2[group];
  store_pair(tile, t, u, s.g[t][u] * sum_slices(pairs, t, u),
             s.g[t][u + 1] * sum_slices(pairs, t, u + 1));
  fence_async();
  group_sync(1 + group);
  Part sum;
  wgmma_fence();
  mix_to_keys(sum, x, tile, false);
  wgmma_commit();
  wgmma_wait<0>();
  settle(sum);
  group_sync(1 + group);  // the mask has been read: its tile takes the result
  Columns c;
  to_columns(c, sum);
  store_transposed(tile, c);
  group_sync(1 + group);
  reinterpret_cast<uint4*>(image)[thread] = reinterpret_cast<const uint4*>(tile)[thread];
}

__device__ void finish_coefficients(const Params& p, SharedStorage& s, const Place& at) {
  const int thread = threadIdx.x & 127, t = thread >> 3, u = 2 * (thread & 7);
  float dg[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    dg[i] = -(s.r1[t][u + i] * sum_slices(s.pairs_z, t, u + i) +
              sum_slices(s.pairs, t, u + i) * s.t2[t][u + i]);
  }
  reinterpret_cast<float2*>(p.kept.floats(at.block, narrow_kept::kDg))[thread] =
      make_float2(dg[0], dg[1]);
  if (thread >= 2 * kNarrow) return;
  const int which = thread / kNarrow, token = thread % kNarrow;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) sum += s.dots[which][i][token];
  p.kept.floats(at.block, narrow_kept::kDa)[thread] = sum;  // and dB
  p.kept.floats(at.block, narrow_kept::kA)[thread] = which == 0 ? s.a[token] : s.b[token];
}

// What sums over slices of the reads' adjoint.
__device__ void finish_adjoint(const Params& p, SharedStorage& s, const Place& at) {
  const int group = threadIdx.x >> 7;
  const Tokens& tokens = s.tokens[at.parity];
  if (group == 0) finish_dq(p, s, at);
  if (group == 1) finish_key_side(s, s.pairs_z, tokens.q, p.kept.tile(at.block, narrow_kept::kDk));
  if (group == 2) finish_key_side(s, s.pairs, s.dz2, p.kept.tile(at.block, narrow_kept::kDd2));
  if (group == 3) finish_coefficients(p, s, at);
}

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
  extern __shared__ __align__(1024) char raw[];
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
    const int next = block + static_cast<int>(gridDim.x) < blocks ? block + gridDim.x : -1;
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
  cudaFuncSetAttribute(narrow_read_kernel<kBackward>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       kBytes);
  const int blocks = p.common.segment.sequences * p.common.segment.chunks;
  const int grid = std::min(blocks, processors);
  narrow_read_kernel<kBackward><<<grid, kThreads, kBytes, stream>>>(p);
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
