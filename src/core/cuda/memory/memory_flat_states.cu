// A memory of depth 1: the sequential half of its forward pass.
//
// One warpgroup runs one sequence: W and S [out, in] are fp32 in registers, their operand copies
// double-buffered in shared memory, so that one is stored to memory while the next one is made.
#include "src/core/cuda/memory/memory_flat.cuh"

namespace mnemo::memory {
namespace {

// Biases, with rules that have options. A thread has one of c, t (c's momentum): number thread /
// 64, feature thread % 64.
struct BiasStorage {
  float state[2][2][kTile];  // this chunk's and the next one's
  float parts[2][4 * kTile];
};

template <bool kOptions, bool kNorm>
struct SharedStorage {
  alignas(1024) bf16 state[2][2][kTileElements];  // W, S
  bf16 k[2][kTileElements], v[2][kTileElements];  // this chunk's and the next one's
  bf16 scaled[2][kTileElements];                  // g delta, p delta [token, out]
  float coefficients[2][kCoefficients];
  float gain[kNorm ? kTile : 4], bias[kNorm ? kTile : 4];
  std::conditional_t<kOptions, BiasStorage, char> biases;
};

struct Params {
  CommonParams common;
  MemoryScanCarry in, out;
};

template <typename Storage>
__device__ void prefetch(const Params& p, Storage& s, int sequence, int chunk) {
  const Segment& seg = p.common.segment;
  const int slot = chunk & 1, thread = threadIdx.x, count = seg.count(chunk);
  const int64_t first = seg.first(chunk);
  copy_rows_async(s.k[slot], p.common.k.at(seg, sequence, first), p.common.k.token_stride, count,
                  thread);
  copy_rows_async(s.v[slot], p.common.v.at(seg, sequence, first), p.common.v.token_stride, count,
                  thread);
  if (thread < kCoefficients / 4) {
    copy_async(smem_address(&s.coefficients[slot][4 * thread]),
               p.common.coefficients + (int64_t{sequence} * seg.chunks + chunk) * kCoefficients +
                   4 * thread,
               true);
  }
  copy_commit();
}

// The clamp's factors of this thread's rows of deltas d; writes down what later kernels take: the
// factors, and the clamped g and p.
__device__ void clamp_factors(const Params& p, float (&factor)[2], const Acc& d, const bf16* k,
                              const float* g, int block, int count) {
  const Options& o = p.common.options;
  const int lane = threadIdx.x & 31, row = 16 * (threadIdx.x >> 5) + lane / 4;
  float k2[2], d2[2] = {};
  Frag keys;
  load_frag(keys, k);
  row_squares(k2, keys);
  if (o.biases) k2[0] += 1, k2[1] += 1;
#pragma unroll
  for (int i = 0; i < 16; ++i)
    d2[i & 1] = fmaf(d[2 * i], d[2 * i], fmaf(d[2 * i + 1], d[2 * i + 1], d2[i & 1]));
  float* to = o.clamp + int64_t{block} * kClampFloats;
  float* row_to = const_cast<float*>(p.common.coefficients) + int64_t{block} * kCoefficients;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int at = row + 8 * i;
    const float norm2 = k2[i] * quad_sum(d2[i]);
    factor[i] = sqrtf(o.limit2 / (o.limit2 + norm2));
    const bool speaks = (lane & 3) == 0;
    if (speaks) {
      to[at] = factor[i], to[kTile + at] = 1 / (o.limit2 + norm2);
      row_to[at] = factor[i] * g[at], row_to[kTile + at] = factor[i] * g[kTile + at];
    }
    const unsigned hits = __ballot_sync(0xffffffffu, speaks && at < count && norm2 > o.limit2);
    if (hits != 0 && o.clamp_hits != nullptr && lane == 0) atomicAdd(o.clamp_hits, __popc(hits));
  }
}

template <bool kOptions, bool kNorm>
__global__ void __launch_bounds__(128, 2) flat_states_kernel(const __grid_constant__ Params p) {
  MNEMO_SHARED_MEMORY(raw);
  using Storage = SharedStorage<kOptions, kNorm>;
  Storage& s = *reinterpret_cast<Storage*>(raw);
  const Options& o = p.common.options;
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3), sequence = blockIdx.x;
  const float residual = p.common.residual ? 1 : 0;
  Acc w, m;
  load_slice(w, p.in.w1, sequence, 0, false, 1);
  load_slice(m, p.in.s1, sequence, 0, false, 1);
  const auto store_state = [&](int parity) {
    Frag frag;
    to_frag(frag, w), store_frag(s.state[parity][0], frag);
    to_frag(frag, m), store_frag(s.state[parity][1], frag);
  };
  const bool biased = kOptions && o.biases;
  float bias = 0;  // this thread's of c, t
  if (biased) {
    const float* from = thread < kTile ? p.in.c1 : p.in.t1;
    bias = from == nullptr ? 0 : from[sequence * kTile + thread % kTile];
  }
  const float* first_biases = o.initial_c1 + sequence % seg.heads * kTile;
  // A chunk that begins at W_0.
  const auto reset = [&](int chunk) {
    if (!o.reset(sequence / seg.heads, chunk)) return;
    if (biased) bias = thread < kTile ? first_biases[thread] : 0;
#pragma unroll
    for (int i = 0; i < 32; ++i) w[i] = m[i] = 0;
    add_flat_initial(o, sequence % seg.heads, 1, w);
  };
  prefetch(p, s, sequence, 0);
  if constexpr (kNorm) load_norm(s.gain, s.bias, p.common, sequence % seg.heads);
  if constexpr (kOptions) {
    reset(0);
    if (biased) s.biases.state[0][thread / kTile][thread % kTile] = bias;
  }
  store_state(0);
  copy_wait<0>();
  fence_async();
  __syncthreads();

  for (int chunk = 0; chunk < seg.chunks; ++chunk) {
    const int parity = chunk & 1;
    const float* g = s.coefficients[parity];
    const bf16 *k = s.k[parity], *v = s.v[parity];
    Acc acc;
    wgmma_fence();
    product<1, false, false>(acc, k, s.state[parity][0], false);
    wgmma_commit();
    if (thread == 0) {
      bulk_store(p.common.states + (int64_t{sequence} * seg.chunks + chunk) * kFlatStateElements,
                 s.state[parity], 2 * kTileBytes);
      bulk_commit();
    }
    if (chunk + 1 < seg.chunks) prefetch(p, s, sequence, chunk + 1);
    {
      const float a = g[128], b = g[129], e = g[130];
#pragma unroll
      for (int i = 0; i < 32; ++i) w[i] = fmaf(a, w[i], b * m[i]), m[i] *= e;
      if constexpr (kOptions) {
        if (o.towards_initial) add_flat_initial(o, sequence % seg.heads, 1 - a, w);
      }
    }
    wgmma_wait<0>();
    settle(acc);
    if constexpr (kOptions) {
      if (biased) {
        constexpr float kOnes[2] = {1, 1};
        add_columns(acc, kOnes, s.biases.state[parity][0]);
        o.bias_states[(int64_t{sequence} * seg.chunks + chunk) * (2 * kTile) + thread] = bias;
      }
    }
    if constexpr (kNorm) {
      Acc xhat;
      float r[2];
      norm_deltas(acc, xhat, r, k, v, s.gain, s.bias, residual, p.common.epsilon);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float2 key = tile_pair(k, row + 8 * i, 8 * j + col);
          const float2 value = tile_pair(v, row + 8 * i, 8 * j + col);
          acc[4 * j + 2 * i] += fmaf(residual, key.x, -value.x);
          acc[4 * j + 2 * i + 1] += fmaf(residual, key.y, -value.y);
        }
      }
    }
    float factor[2] = {1, 1};
    if constexpr (kOptions) {
      if (o.clamps())
        clamp_factors(p, factor, acc, k, g, sequence * seg.chunks + chunk, seg.count(chunk));
    }
    Frag gd, pd;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float gs = g[row + 8 * i], ps = g[kTile + row + 8 * i];
        if constexpr (kOptions) gs *= factor[i], ps *= factor[i];
        const float x = acc[4 * j + 2 * i], y = acc[4 * j + 2 * i + 1];
        gd[2 * j + i] = pack(gs * x, gs * y);
        pd[2 * j + i] = pack(ps * x, ps * y);
      }
    }
    if constexpr (kOptions) {
      if (biased) {
        const float gs[2] = {factor[0] * g[row], factor[1] * g[row + 8]};
        const float ps[2] = {factor[0] * g[kTile + row], factor[1] * g[kTile + row + 8]};
        scaled_column_sums(acc, gs, s.biases.parts[0]);
        scaled_column_sums(acc, ps, s.biases.parts[1]);
      }
    }
    store_frag(s.scaled[0], gd);
    store_frag(s.scaled[1], pd);
    fence_async();
    // The last chunk's state must have left the tiles that take the next one's.
    if (thread == 0) bulk_wait_read<1>();
    __syncthreads();
    wgmma_fence();
    product<-1, true, true>(w, s.scaled[0], k, true);
    product<-1, true, true>(m, s.scaled[1], k, true);
    wgmma_commit();
    wgmma_wait<0>();
    settle(w), settle(m);
    if constexpr (kOptions) {
      if (biased) {
        const int which = thread / kTile, f = thread % kTile;
        const float a = g[128], b = g[129], e = g[130];
        bias = which == 0 ? fmaf(a, bias, b * s.biases.state[parity][1][f]) : e * bias;
        if (which == 0 && o.towards_initial) bias = fmaf(1 - a, first_biases[f], bias);
        bias -= sum_warps(s.biases.parts[which] + f);
      }
      if (chunk + 1 < seg.chunks) reset(chunk + 1);
      if (biased) s.biases.state[1 - parity][thread / kTile][thread % kTile] = bias;
    }
    store_state(1 - parity);
    copy_wait<0>();
    fence_async();
    __syncthreads();
  }
  store_slice(w, p.out.w1, sequence, 0, false, 1);
  store_slice(m, p.out.s1, sequence, 0, false, 1);
  if (biased) {
    float* to = thread < kTile ? p.out.c1 : p.out.t1;
    if (to != nullptr) to[sequence * kTile + thread % kTile] = bias;
  }
  if (thread == 0) bulk_wait();
}

template <bool kOptions, bool kNorm>
void launch(const Params& p, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage<kOptions, kNorm>);
  launch_kernel(flat_states_kernel<kOptions, kNorm>, {p.common.segment.sequences, 128, kBytes},
                stream, p);
}

}  // namespace

void launch_flat_states(const CommonParams& p, const MemoryScanCarry& in,
                        const MemoryScanCarry& out, cudaStream_t stream) {
  with_flat_instance(p, [&](auto options, auto norm) {
    launch<decltype(options)::value, decltype(norm)::value>({p, in, out}, stream);
  });
}

}  // namespace mnemo::memory
