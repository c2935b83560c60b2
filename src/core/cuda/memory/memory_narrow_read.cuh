// A block in shared memory, and the work on what sums over hidden slices, for
// memory_narrow_read.cu alone.
#pragma once

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

}  // namespace
}  // namespace mnemo::memory
