// A memory of depth 1: its reads and their adjoint, in parallel over blocks.
//
// One warpgroup a block, tokens on M; two or three CTAs share an SM.
#include "src/core/cuda/memory/memory_flat_read.cuh"

namespace mnemo::memory {
namespace {

template <bool kBackward, bool kOptions, bool kNorm, bool kAlpha>
__global__ void __launch_bounds__(128, 2) flat_read_kernel(const __grid_constant__ Params p) {
  MNEMO_SHARED_MEMORY(raw);
  using Storage = SharedStorage<kBackward, kOptions, kNorm, kAlpha>;
  Storage& s = *reinterpret_cast<Storage*>(raw);
  const Options& o = p.common.options;
  const Segment& seg = p.common.segment;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
  const int block = blockIdx.x, sequence = block / seg.chunks, chunk = block % seg.chunks;
  const int64_t first = seg.first(chunk);
  const int count = seg.count(chunk);
  const float residual = p.common.residual ? 1 : 0;
  if (thread == 0) {
    mbar_init(&s.bar, 1);
    mbar_init_fence();
    fence_async();
    mbar_expect(&s.bar, (kOptions ? 3 : 2) * kTileBytes);
    bulk_load(s.state, p.common.states + int64_t{block} * kFlatStateElements, 2 * kTileBytes,
              &s.bar);
    if constexpr (kOptions) {
      bulk_load(s.initial, o.initial_tiles + sequence % seg.heads * kTileElements, kTileBytes,
                &s.bar);
    }
  }
  const auto load = [&](bf16* tile, const Rows& rows) {
    copy_rows_async(tile, rows.at(seg, sequence, first), rows.token_stride, count, thread);
  };
  load(s.q, p.common.q), load(s.k, p.common.k), load(s.d, p.common.v);
  if (kBackward) load(kNorm ? s.dy : s.dz, p.y);
  copy_commit();
  load_gates<kOptions, kOptions>(s.gates, p.common, sequence, chunk, thread);
  if constexpr (kNorm) load_norm(s.gain, s.bias, p.common, sequence % seg.heads);
  const bool biased = kOptions && o.biases;
  if (biased) {
    s.biases[thread / kTile][thread % kTile] = o.bias_states[int64_t{block} * (2 * kTile) + thread];
    if (thread < kTile) s.biases[2][thread] = o.initial_c1[sequence % seg.heads * kTile + thread];
  }
  __syncthreads();
  fill_g<kOptions>(s.gates, warp);
  copy_wait<0>();
  fence_async();
  __syncthreads();
  RowFactors factors;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    factors.decay[i] = s.gates.g[row + 8 * i][kTile + 1];
    factors.push[i] = s.gates.g[row + 8 * i][kTile];
    factors.fade[i] = kOptions && o.towards_initial ? 1 - factors.decay[i] : 0;
  }
  mbar_wait(&s.bar, 0);
  Acc r, acc;
  wgmma_fence();
  product<1, false, false>(r, s.q, s.k, false);
  product<1, false, false>(acc, s.k, s.state[0], false);
  wgmma_commit();
  wgmma_wait<0>();
  settle(r), settle(acc);
  if constexpr (kOptions) {
    if (biased) {  // a weight whose input is 1
      constexpr float kOnes[2] = {1, 1};
      add_columns(acc, kOnes, s.biases[0]);
#pragma unroll
      for (float& x : r) x += 1;
    }
  }
  if constexpr (kNorm) {
    Acc xhat;
    float deviations[2];
    norm_deltas(acc, xhat, deviations, s.k, s.d, s.gain, s.bias, residual, p.common.epsilon);
    if constexpr (kBackward) keep_norm(p, block, xhat, deviations);
  } else {
    add_rows(acc, s.k, residual);
    add_rows(acc, s.d, -1);
  }
  Frag d, masked;
  to_frag(d, acc);
  __syncwarp();
  store_frag(s.d, d);
  mask(masked, r, s.gates, row, col);
  if (kBackward) {
    store_fragment(p.kept.tile(block, flat_kept::kD), d);
    store_frag(s.mask, masked);
  }
  fence_async();
  __syncthreads();
  if constexpr (!kBackward || kNorm) read_state<kOptions, kAlpha>(acc, s, masked, factors, biased);
  if constexpr (kBackward) {
    if constexpr (kNorm) norm_backward<kAlpha>(p, s, block, acc);
    reads_backward<kOptions, kAlpha>(p, s, block, r, factors, acc);
    add_rows(acc, kNorm ? s.dy : s.dz, residual);
  } else {
    if constexpr (kNorm) {
      float deviations[2];
      normalize(acc, p.common.epsilon, deviations);
      scale_columns(acc, s.gain, s.bias);
    }
    add_rows(acc, s.q, residual);
  }
  to_frag(d, acc);
  __syncthreads();  // k has been read: its tile takes the result
  store_frag(s.k, d);
  __syncthreads();
  const Rows& out = kBackward ? p.dq : p.y;
  write_rows(out.at(seg, sequence, first), out.token_stride, s.k, count, thread);
}

template <bool kBackward, bool kOptions, bool kNorm, bool kAlpha = false>
void launch(const Params& p, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage<kBackward, kOptions, kNorm, kAlpha>);
  static_assert(2 * (kBytes + 1024) <= 228 * 1024);
  launch_kernel(flat_read_kernel<kBackward, kOptions, kNorm, kAlpha>,
                {p.common.segment.sequences * p.common.segment.chunks, 128, kBytes}, stream, p);
}

}  // namespace

void launch_flat_read(const CommonParams& p, const Rows& y, cudaStream_t stream) {
  with_flat_instance(p, [&](auto options, auto norm) {
    launch<false, decltype(options)::value, decltype(norm)::value>({p, y, {}, {nullptr}, {nullptr}},
                                                                   stream);
  });
}

void launch_flat_read_backward(const CommonParams& p, const Rows& dy, const Rows& dq,
                               const FlatKept& kept, cudaStream_t stream) {
  with_flat_instance(p, [&](auto options, auto norm) {
    constexpr bool kOptions = decltype(options)::value, kNorm = decltype(norm)::value;
    const Params params{p, dy, dq, kept, {p.options.kept.base}};
    if constexpr (kNorm) {
      if (p.gates.alpha != nullptr) return launch<true, kOptions, true, true>(params, stream);
    }
    launch<true, kOptions, kNorm>(params, stream);
  });
}

}  // namespace mnemo::memory
