// The sequential half of the forward pass for chunks of sixteen tokens: key pass and state update.
//
// As for longer chunks a cluster of two CTAs runs one sequence, with a warpgroup for each of a
// CTA's two hidden slices and each layer. Everything else follows from the chunk being short, so
// that latency counts, not work: both warpgroups of a slice compute its hidden units rather than
// exchange them, both CTAs form all sixteen deltas so that only the partial outputs
// cross, and the deltas enter the state's update from registers. The operand copies of the state
// are double-buffered: one is stored to memory while the next one is made.
#include "src/core/cuda/memory/memory_narrow.cuh"
#include "src/core/cuda/memory/memory_slice.cuh"

namespace mnemo::memory {
namespace {

constexpr int kRanks = 2;
constexpr int kThreads = 512;
constexpr uint32_t kPartBytes = 2 * kNarrow * kTile * 4;  // from the other CTA, two slices

struct SharedStorage {
  // As the state store keeps it: for each slice W1, W2^T, S1, S2^T.
  alignas(1024) bf16 state[2][2][4][kTileElements];
  bf16 k[2][kNarrowElements], v[2][kNarrowElements];  // this chunk's and the next one's
  bf16 h[2][kNarrowElements];                         // [token, hidden]
  bf16 d2[kNarrowElements];
  Sums part[2][2 * kRanks];  // partial outputs by parity and hidden slice
  float coefficients[2][kCoefficients];
  float gain[kTile], bias[kTile];
  uint64_t part_bar[2];
};

struct Params {
  CommonParams common;
  MemoryScanCarry in, out;
};

// This thread's piece of a chunk's keys, values or coefficients.
struct Prefetcher {
  const bf16* rows = nullptr;  // in the segment's first chunk
  const float* coefficients = nullptr;
  int64_t step = 0;  // elements from chunk to chunk
  int at = 0;        // bytes or floats into the tile
  int row = 0;       // token in the chunk
  int last_row = 0;  // of the sequence, counted from the segment's first token

  __device__ Prefetcher(const Params& p, int sequence) {
    const Segment& seg = p.common.segment;
    const int thread = threadIdx.x, col = 8 * (thread & 7);
    row = (thread & 127) >> 3;
    last_row = static_cast<int>(
        min(seg.tokens - 1 - seg.first_token, int64_t{seg.chunks} * seg.chunk - 1));
    if (thread < 256) {
      const Rows& from = thread < 128 ? p.common.k : p.common.v;
      rows = from.at(seg, sequence, min(seg.first_token + row, seg.tokens - 1)) + col;
      step = seg.chunk * from.token_stride;
      at = swizzle_offset(row, col);
    } else if (thread < 256 + kCoefficients / 4) {
      at = 4 * (thread - 256);
      coefficients = p.common.coefficients + int64_t{sequence} * seg.chunks * kCoefficients + at;
    }
  }

  __device__ void start(SharedStorage& s, int chunk) const {
    const int slot = chunk & 1;
    if (rows != nullptr) {
      const bool valid = chunk * kNarrow + row <= last_row;
      const bf16* tile = threadIdx.x < 128 ? s.k[slot] : s.v[slot];
      copy_async(smem_address(tile) + at, valid ? rows + chunk * step : rows, valid);
    } else if (coefficients != nullptr) {
      copy_async(smem_address(&s.coefficients[slot][at]), coefficients + chunk * kCoefficients,
                 true);
    }
    copy_commit();
  }
};

constexpr int kLanes = 8;  // a token

// A token's delta with one round of shuffles after the output: all means follow from sums that need
// neither mean nor deviation of o. With xhat = r (o - mean) the delta is
// r (x - mean(x) - xhat mean(x xhat)), x = gain^2 xhat + fixed.
struct TokenDelta {
  static constexpr int n = kTile / kLanes;
  Features<n> gain2, fixed;
  float gain2_sum, fixed_sum;

  __device__ void prepare(const SharedStorage& s, int parity, const TokenLane<kLanes>& at,
                          bool residual) {
    Features<n> k, v, gain, bias;
    load_features(k, s.k[parity], at.token, at.f);
    load_features(v, s.v[parity], at.token, at.f);
    load_floats(gain, s.gain + at.f), load_floats(bias, s.bias + at.f);
    gain2_sum = fixed_sum = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      fixed[i] = gain[i] * (bias[i] + (residual ? k[i] : 0) - v[i]);
      gain2[i] = gain[i] * gain[i];
      gain2_sum += gain2[i], fixed_sum += fixed[i];
    }
    gain2_sum = token_sum<kLanes>(gain2_sum), fixed_sum = token_sum<kLanes>(fixed_sum);
  }

  // o -> the delta.
  __device__ void finish(Features<n>& o, float epsilon) const {
    float sum = 0, square = 0, first = 0, second = 0, cross = 0;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float scaled = gain2[i] * o[i];
      sum += o[i], first += scaled;
      square = fmaf(o[i], o[i], square);
      second = fmaf(scaled, o[i], second);
      cross = fmaf(fixed[i], o[i], cross);
    }
    sum = token_sum<kLanes>(sum), square = token_sum<kLanes>(square);
    first = token_sum<kLanes>(first), second = token_sum<kLanes>(second);
    cross = token_sum<kLanes>(cross);
    constexpr float kMean = 1.0f / kTile;
    const float mean = sum * kMean;
    const float r = rsqrtf(fmaxf(fmaf(square, kMean, -mean * mean), 0.0f) + epsilon);
    const float m1 = fmaf(r, fmaf(-mean, gain2_sum, first), fixed_sum) * kMean;
    const float spread = second - mean * (2 * first - mean * gain2_sum);
    const float m2 = r * fmaf(r, spread, cross - mean * fixed_sum) * kMean;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float xhat = r * (o[i] - mean);
      o[i] = r * (fmaf(gain2[i], xhat, fixed[i]) - m1 - xhat * m2);
    }
  }
};

__global__ void __cluster_dims__(kRanks, 1, 1) __launch_bounds__(kThreads, 1)
    narrow_states_kernel(const __grid_constant__ Params p) {
  MNEMO_SHARED_MEMORY(raw);
  SharedStorage& s = *reinterpret_cast<SharedStorage*>(raw);
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x;
  const int warp = __shfl_sync(0xffffffffu, thread >> 5, 0);  // told to be uniform
  const int group = warp >> 2, slice = group >> 1, layer = group & 1;
  const int rank = static_cast<int>(cluster_rank());
  const int sequence = blockIdx.x / kRanks;
  const int hidden_slice = 2 * rank + slice;

  Acc w, m;  // weights and momentum of this layer and slice
  load_slice(w, layer ? p.in.w2 : p.in.w1, sequence, hidden_slice, layer);
  load_slice(m, layer ? p.in.s2 : p.in.s1, sequence, hidden_slice, layer);
  const auto store_state = [&](int parity) {
    Frag frag;
    to_frag(frag, w), store_frag(s.state[parity][slice][layer], frag);
    to_frag(frag, m), store_frag(s.state[parity][slice][2 + layer], frag);
  };
  const Prefetcher prefetcher(p, sequence);
  prefetcher.start(s, 0);
  if (thread < kTile) {
    s.gain[thread] = p.common.gain[sequence % seg.heads * kTile + thread];
    s.bias[thread] = p.common.bias[sequence % seg.heads * kTile + thread];
  }
  if (thread == 0) {
    // One arrival announces the other CTA's bytes, the rest are this CTA's warps of layer two.
    mbar_init(&s.part_bar[0], 1 + 8);
    mbar_init(&s.part_bar[1], 1 + 8);
    mbar_init_fence();
  }
  store_state(0);
  copy_wait<0>();
  fence_async();
  cluster_sync();

  for (int chunk = 0; chunk < seg.chunks; ++chunk) {
    const int parity = chunk & 1;
    const bf16(&state)[4][kTileElements] = s.state[parity][slice];
    const float* g = s.coefficients[parity];
    Part x;  // layer one: the derivative, then D1; layer two: H
    wgmma_fence();
    apply<false>(x, state[0], s.k[parity]);
    wgmma_commit();
    if (thread == 0) {
      mbar_expect(&s.part_bar[parity], kPartBytes);
      bulk_store(p.common.states + (int64_t{sequence} * seg.chunks + chunk) * kStateElements +
                     rank * 8 * kTileElements,
                 s.state[parity], 8 * kTileBytes);
      bulk_commit();
    }
    if (chunk + 1 < seg.chunks) prefetcher.start(s, chunk + 1);
    wgmma_wait<0>();
    settle(x);
    if (layer == 1) {
      with_activation(p.common.gelu, [&](auto act) {
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] = act.value(x[i]);
      });
      Columns h;
      to_columns(h, x);
      store_transposed(s.h[slice], h);
      fence_async();
      group_sync(1 + group);
      Part o;
      wgmma_fence();
      apply<true>(o, state[1], s.h[slice]);
      wgmma_commit();
      wgmma_wait<0>();
      settle(o);
      send_sums(o, s.part[parity][hidden_slice], &s.part_bar[parity], 1 - rank);
    } else {
      with_activation(p.common.gelu, [&](auto act) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          float z = x[i];
          x[i] = act.value_and_slope(z);
        }
      });
    }
    // While they travel: the part of the state update that needs no delta.
    {
      const float a = g[128], b = g[129], e = g[130];
#pragma unroll
      for (int i = 0; i < 32; ++i) w[i] = fmaf(a, w[i], b * m[i]), m[i] *= e;
    }
    if (group == 0) {
      const TokenLane<kLanes> at(warp);
      TokenDelta delta;
      delta.prepare(s, parity, at, p.common.residual);
      mbar_wait(&s.part_bar[parity], (chunk >> 1) & 1);
      Features<TokenDelta::n> o;
      load_total(o, s.part[parity], 2 * kRanks, at.token, at.f);
      delta.finish(o, p.common.epsilon);
      store_features(s.d2, at.token, at.f, o);
    }
    fence_async();
    // The last chunk's state must have left the tiles that take the next one's.
    if (thread == 0) bulk_wait_read<1>();
    __syncthreads();
    if (layer == 0) {
      Part u;
      wgmma_fence();
      apply<false>(u, state[1], s.d2);
      wgmma_commit();
      wgmma_wait<0>();
      settle(u);
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] *= u[i];
    }
    {
      PerToken scale;
      Columns gx, px;
      load_per_token(scale, g), to_columns(gx, x, scale);
      load_per_token(scale, g + kTile), to_columns(px, x, scale);
      const bf16* in = layer ? s.d2 : s.k[parity];
      wgmma_fence();
      outer<-1>(w, gx, in);
      outer<-1>(m, px, in);
      wgmma_commit();
      wgmma_wait<0>();
      settle(w), settle(m);
    }
    store_state(1 - parity);
    copy_wait<0>();
    fence_async();
    __syncthreads();
  }
  store_slice(w, layer ? p.out.w2 : p.out.w1, sequence, hidden_slice, layer);
  store_slice(m, layer ? p.out.s2 : p.out.s1, sequence, hidden_slice, layer);
  if (thread == 0) bulk_wait();
  cluster_sync();  // nobody leaves while its shared memory may still be written
}

}  // namespace

void launch_narrow_states(const CommonParams& p, const MemoryScanCarry& in,
                          const MemoryScanCarry& out, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage);
  launch_kernel(narrow_states_kernel, {p.segment.sequences * kRanks, kThreads, kBytes, kRanks},
                stream, {p, in, out});
}

}  // namespace mnemo::memory
