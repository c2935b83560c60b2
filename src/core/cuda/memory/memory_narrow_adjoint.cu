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
#include "src/core/cuda/memory/memory_narrow.cuh"
#include "src/core/cuda/memory/memory_slice.cuh"

namespace mnemo::memory {
namespace {

constexpr int kRanks = 2;
constexpr int kThreads = 512;
constexpr uint32_t kPartBytes = 2 * kNarrow * kTile * 4;  // from the other CTA, two slices
constexpr int kLanes = 16;                                // a token
constexpr int kImages = 4;                                // H, D1, X, dZ of a slice

struct Stage {
  bf16 weights[2][2][kTileElements];         // by slice: W1, W2^T [hidden, f]
  bf16 images[2][kImages][kNarrowElements];  // by slice, [token, hidden]
  bf16 d2[kNarrowElements], dz2[kNarrowElements];
  bf16 k[kNarrowElements], q[kNarrowElements];
};
constexpr uint32_t kStageBytes = sizeof(Stage::weights) + sizeof(Stage::images) + 2 * kNarrowBytes;

struct SharedStorage {
  alignas(1024) Stage stage[2];
  bf16 adjoint[2][2][2][kTileElements];  // [slice][layer][W, S], [hidden, f]
  bf16 du[2][kNarrowElements];           // [token, hidden]
  bf16 dz[2][kNarrowElements];           // [token, hidden], then the slice's share of dK
  bf16 d_o[kNarrowElements];             // [token, f]
  uint4 dh[2][128];                      // from the upper layer to the lower, register order
  Sums part[2][2 * kRanks];              // partial dD2 by parity and hidden slice
  float coefficients[2][kCoefficients];
  float decay[2][2 * kNarrow];  // A_t, B_t
  uint64_t stage_bar[2], part_bar[2];
};

struct Params {
  CommonParams common;
  MemoryScanCarry in, out;
  Rows dv;
  NarrowKept kept;
  float* norm_parts;
  bool first;
};

__device__ void prefetch(const Params& p, SharedStorage& s, int sequence, int rank, int step) {
  const Segment& seg = p.common.segment;
  const int chunk = seg.chunks - 1 - step, block = sequence * seg.chunks + chunk, slot = step & 1;
  const int thread = threadIdx.x;
  Stage& stage = s.stage[slot];
  const auto tile = [&](int index) { return p.kept.tile(block, index); };
  if (thread == 0) {
    uint64_t* bar = &s.stage_bar[slot];
    const bf16* states = p.common.states + int64_t{block} * kStateElements;
    mbar_expect(bar, kStageBytes);
    for (int i = 0; i < 2; ++i) {
      const int slice = 2 * rank + i;
      bulk_load(stage.weights[i], states + 4 * slice * kTileElements, 2 * kTileBytes, bar);
      bulk_load(stage.images[i], tile(narrow_kept::kPerSlice * slice), kImages * kNarrowBytes, bar);
    }
    bulk_load(stage.d2, tile(narrow_kept::kD2), 2 * kNarrowBytes, bar);
  } else if (thread == 288) {  // what the registers will take
    for (int i = 0; i < 2; ++i) {
      const int slice = 2 * rank + i;
      bulk_prefetch(
          p.common.states + int64_t{block} * kStateElements + (4 * slice + 2) * kTileElements,
          2 * kTileBytes);
      bulk_prefetch(tile(narrow_kept::kPerSlice * slice + kImages), kImages * kNarrowBytes);
    }
    bulk_prefetch(tile(narrow_kept::kDd2), kNarrowBytes);
    bulk_prefetch(tile(narrow_kept::kXhat), 2 * kNarrowBytes);
  }
  const int count = seg.count(chunk);
  const int64_t first = seg.first(chunk);
  if (thread < 128) {
    copy_narrow_async(stage.k, p.common.k.at(seg, sequence, first), p.common.k.token_stride, count,
                      thread);
  } else if (thread < 256) {
    copy_narrow_async(stage.q, p.common.q.at(seg, sequence, first), p.common.q.token_stride, count,
                      thread - 128);
  } else if (thread >= 320 && thread < 320 + kCoefficients / 4) {
    const int at = 4 * (thread - 320);
    copy_async(smem_address(&s.coefficients[slot][at]),
               p.common.coefficients + int64_t{block} * kCoefficients + at, true);
  } else if (thread >= 384 && thread < 384 + kNarrow / 2) {
    const int at = 4 * (thread - 384);
    copy_async(smem_address(&s.decay[slot][at]), p.kept.floats(block, narrow_kept::kA) + at, true);
  }
  copy_commit();
}

using Row = Features<kTile / kLanes>;

// What a token's lanes need besides the sums.
struct Token {
  Row xhat, v, dd2;
  float r;

  __device__ Token(const Params& p, int sequence, int block, const TokenLane<kLanes>& me,
                   int64_t token, bool valid) {
    load_floats(xhat, reinterpret_cast<const float*>(p.kept.tile(block, narrow_kept::kXhat)) +
                          me.token * kTile + me.f);
    r = p.kept.floats(block, narrow_kept::kInvDeviation)[me.token];
    load_features(dd2, p.kept.tile(block, narrow_kept::kDd2), me.token, me.f);
    // Any row will do past the end, where nothing depends on it but must be finite.
    load_row(v, p.common.v.at(p.common.segment, sequence, token) + me.f);
#pragma unroll
    for (float& x : v) x = valid ? x : 0;
  }
};

struct NormGradient {
  Row gain, bias;
};

// Adjoint of the token's delta -> adjoints of the network's output and of the error. `sums` is
// the delta's adjoint but for the reads' part.
__device__ void delta_backward(const Token& t, const Row& key, const Row& sums, const Row& gain,
                               const Row& bias, Row& d_o, Row& derr, NormGradient& out) {
  constexpr int n = kTile / kLanes;
  constexpr float kMean = 1.0f / kTile;
  Row ds, error, gg;
  float m1 = 0, m2 = 0, n1 = 0, n2 = 0, dd = 0;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    ds[i] = t.r * (t.dd2[i] + sums[i]);
    error[i] = fmaf(gain[i], t.xhat[i], bias[i] - t.v[i]) + key[i];
    gg[i] = error[i] * gain[i];
    m1 += gg[i], m2 = fmaf(gg[i], t.xhat[i], m2);
    n1 += ds[i], n2 = fmaf(ds[i], t.xhat[i], n2);
    dd = fmaf(ds[i], gg[i], dd);
  }
  m1 = token_sum<kLanes>(m1) * kMean, m2 = token_sum<kLanes>(m2) * kMean;
  n1 = token_sum<kLanes>(n1) * kMean, n2 = token_sum<kLanes>(n2) * kMean;
  // Mean of the delta's adjoint times the delta.
  dd = token_sum<kLanes>(dd) * kMean - m1 * n1 - m2 * n2;
  Row dx;
  float x1 = 0, x2 = 0;
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const float dgg = ds[i] - n1 - t.xhat[i] * n2;
    derr[i] = dgg * gain[i];
    out.gain[i] += fmaf(dgg, error[i], derr[i] * t.xhat[i]);
    out.bias[i] += derr[i];
    dx[i] = derr[i] * gain[i] - ds[i] * m2 - gg[i] * n2;
    x1 += dx[i], x2 = fmaf(dx[i], t.xhat[i], x2);
  }
  x1 = token_sum<kLanes>(x1) * kMean, x2 = token_sum<kLanes>(x2) * kMean + dd;
#pragma unroll
  for (int i = 0; i < n; ++i) d_o[i] = t.r * (dx[i] - x1 - t.xhat[i] * x2);
}

// x, y = In dW^T, In dS^T: x = reads - g x - p y by tokens, F's adjoint; the dots with F give dg,
// dp.
__device__ void factor_adjoint(Part& x, const Part& y, const bf16* factor, const Columns& reads,
                               const float* g, float* dg, float* dp) {
  Columns f;
  PerToken sums = {}, sums_p = {}, gs, ps;
  Part r;
  load_transposed(f, factor);
  add_dots(sums, x, f);
  add_dots(sums_p, y, f);
  store_dots(dg, sums);
  store_dots(dp, sums_p);
  load_per_token(gs, g), load_per_token(ps, g + kTile);
  to_part(r, reads);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int t = 2 * (i >> 2) + (i & 1);
    x[i] = fmaf(-gs[t], x[i], fmaf(-ps[t], y[i], r[i]));
  }
}

// x, y = F dW, F dS: x = -g x - p y by tokens, In's adjoint.
__device__ void input_adjoint(Part& x, const Part& y, const float* g) {
  PerToken gs, ps;
  load_per_token(gs, g), load_per_token(ps, g + kTile);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int t = 2 * (i >> 2) + (i & 1);
    x[i] = -fmaf(gs[t], x[i], ps[t] * y[i]);
  }
}

// W' = A W + B S, S' = E S taken back, and the adjoints of A, B, E.
__device__ void decay_adjoint(Acc& dw, Acc& ds, const bf16* weights, const Frag& momenta,
                              const float* g, float4* out) {
  const float a = g[128], b = g[129], e = g[130];
  float dots[3] = {};
  Frag w;
  load_frag(w, weights);
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 x = unpack(w[i]), y = unpack(momenta[i]);
    dots[0] = fmaf(dw[2 * i], x.x, fmaf(dw[2 * i + 1], x.y, dots[0]));
    dots[1] = fmaf(dw[2 * i], y.x, fmaf(dw[2 * i + 1], y.y, dots[1]));
    dots[2] = fmaf(ds[2 * i], y.x, fmaf(ds[2 * i + 1], y.y, dots[2]));
  }
#pragma unroll
  for (int i = 0; i < 3; ++i) dots[i] = warp_sum(dots[i]);
  if ((threadIdx.x & 31) == 0) *out = make_float4(dots[0], dots[1], dots[2], 0);
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    ds[i] = fmaf(b, dw[i], e * ds[i]);
    dw[i] *= a;
  }
}

// A tile of the state store as a fragment: lanes in pairs fetch eight bytes each of one row and
// swap halves.
__device__ void load_stored(Frag& frag, const bf16* tile) {
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
  const bool odd = lane & 1;
  const char* from = reinterpret_cast<const char*>(tile);
  const int row = 16 * warp + lane / 4 + 8 * odd, col = 2 * (lane & 2);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const uint2 v = *reinterpret_cast<const uint2*>(from + swizzle_offset(row, 8 * j + col));
    frag[2 * j] = v.x, frag[2 * j + 1] = v.y;
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const uint32_t given = __shfl_xor_sync(0xffffffffu, odd ? frag[2 * j] : frag[2 * j + 1], 1);
    frag[2 * j] = odd ? given : frag[2 * j];
    frag[2 * j + 1] = odd ? frag[2 * j + 1] : given;
  }
}

// The reads' part: dW += (A x)^T y, dS += (B x)^T y. Asynchronous.
__device__ void add_reads(Acc& dw, Acc& ds, const bf16* x_tile, const bf16* y, const float* decay) {
  Columns c, ax, bx;
  Part x;
  PerToken scale;
  load_transposed(c, x_tile);
  to_part(x, c);
  load_per_token(scale, decay), to_columns(ax, x, scale);
  load_per_token(scale, decay + kNarrow), to_columns(bx, x, scale);
  wgmma_fence();
  outer<1>(dw, ax, y);
  outer<1>(ds, bx, y);
  wgmma_commit();
  wgmma_wait<0>();
  settle(dw), settle(ds);
}

__global__ void __cluster_dims__(kRanks, 1, 1) __launch_bounds__(kThreads, 1)
    narrow_adjoint_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) char raw[];
  SharedStorage& s = *reinterpret_cast<SharedStorage*>(raw);
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x, lane = thread & 31;
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
  NormGradient norm = {};
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
      NormGradient mine = {};
#pragma unroll
      for (float& v : key) v = p.common.residual ? v : 0;
      delta_backward(token, key, total, gain, bias, d_o, derr, mine);
      store_features(s.d_o, me.token, me.f, d_o);
      if ((me.token & 1) == rank) {  // of the two CTAs' copies one counts
#pragma unroll
        for (int i = 0; i < kTile / kLanes; ++i) {
          norm.gain[i] += mine.gain[i], norm.bias[i] += mine.bias[i];
          derr[i] = -derr[i];
        }
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
  if (layer == 1 && (me.token & 1) == rank) {
    float* parts = p.norm_parts + (int64_t{sequence} * kNarrow + me.token) * 2 * kTile + me.f;
    if (!p.first) {
      Row gain, bias;
      load_floats(gain, parts), load_floats(bias, parts + kTile);
#pragma unroll
      for (int i = 0; i < kTile / kLanes; ++i) norm.gain[i] += gain[i], norm.bias[i] += bias[i];
    }
    store_floats(parts, norm.gain);
    store_floats(parts + kTile, norm.bias);
  }
  if (thread == 0) bulk_wait();
  cluster_sync();  // nobody leaves while its shared memory may still be written
}

}  // namespace

void launch_narrow_adjoint(const CommonParams& p, const MemoryScanCarry& in,
                           const MemoryScanCarry& out, const Rows& dv, const NarrowKept& kept,
                           float* norm_parts, bool first, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage);
  static_assert(kBytes <= 227 * 1024);
  cudaFuncSetAttribute(narrow_adjoint_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  narrow_adjoint_kernel<<<p.segment.sequences * kRanks, kThreads, kBytes, stream>>>(
      {p, in, out, dv, kept, norm_parts, first});
}

}  // namespace mnemo::memory
