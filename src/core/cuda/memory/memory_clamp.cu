// What the clamp's adjoint needs of the keys, in parallel over blocks: per token the squared norms
// of K, D2 and D1, and the reach |H|^2 D2 + |K|^2 (D1 o act'(Z)) W2^T (Options). One warpgroup a
// block, hidden slice by slice.
#include "src/core/cuda/memory/memory_kernels.cuh"
#include "src/core/cuda/memory/memory_rows.cuh"

namespace mnemo::memory {
namespace {

struct SharedStorage {
  alignas(1024) bf16 h[2 * kTileElements];  // H and D1 of a slice, which lie side by side
  bf16 w2[kTileElements];
  bf16 k[kTileElements];
  uint64_t bar;
};

__device__ void add_squares(float (&sum)[2], const Frag& x) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(x[i]);
    sum[i & 1] = fmaf(v.x, v.x, fmaf(v.y, v.y, sum[i & 1]));
  }
}

__device__ void load_slice_tiles(const CommonParams& p, const Kept& kept, SharedStorage& s,
                                 int block, int slice) {
  mbar_expect(&s.bar, 3 * kTileBytes);
  bulk_load(s.h, kept.tile(block, kept::kPerSlice * slice + kept::kH), 2 * kTileBytes, &s.bar);
  bulk_load(s.w2, p.states + int64_t{block} * kStateElements + (4 * slice + 1) * kTileElements,
            kTileBytes, &s.bar);
}

__global__ void __launch_bounds__(128)
    clamp_keys_kernel(const __grid_constant__ CommonParams p, Kept kept) {
  MNEMO_SHARED_MEMORY(raw);
  SharedStorage& s = *reinterpret_cast<SharedStorage*>(raw);
  const Segment& seg = p.segment;
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
  const int block = blockIdx.x, sequence = block / seg.chunks;
  if (thread == 0) {
    mbar_init(&s.bar, 1);
    mbar_init_fence();
    fence_async();
    load_slice_tiles(p, kept, s, block, 0);
  }
  copy_rows_async(s.k, p.k.at(seg, sequence, seg.first(block % seg.chunks)), p.k.token_stride,
                  seg.count(block % seg.chunks), thread);
  copy_commit();
  copy_wait<0>();
  __syncthreads();
  Frag x, y;
  float k2[2] = {}, h2[2] = {}, d1[2] = {}, d2[2] = {};
  load_frag(x, s.k);
  add_squares(k2, x);
  Acc reach;
  for (int slice = 0; slice < kSlices; ++slice) {
    load_fragment(y, kept.tile(block, kept::kPerSlice * slice + kept::kSlopeK));
    mbar_wait(&s.bar, slice & 1);
    load_frag(x, s.h);
    add_squares(h2, x);
    load_frag(x, s.h + kTileElements);
    add_squares(d1, x);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float2 d = unpack(x[i]), slope = unpack(y[i]);
      x[i] = pack(d.x * slope.x, d.y * slope.y);
    }
    wgmma_fence();
    product<1, true>(reach, x, s.w2, slice > 0);
    wgmma_commit();
    wgmma_wait<0>();
    __syncthreads();
    if (thread == 0 && slice + 1 < kSlices) load_slice_tiles(p, kept, s, block, slice + 1);
  }
  settle(reach);
#pragma unroll
  for (int i = 0; i < 2; ++i)
    k2[i] = quad_sum(k2[i]), h2[i] = quad_sum(h2[i]), d1[i] = quad_sum(d1[i]);
  if (p.options.biases) {
#pragma unroll
    for (int i = 0; i < 2; ++i) k2[i] += 1, h2[i] += 1;
  }
  const ExtraKept& extra = p.options.kept;
  float* out = reinterpret_cast<float*>(extra.tile(block, extra_kept::kReach));
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 d = tile_pair(kept.tile(block, kept::kD2), row + 8 * i, 8 * j + col);
      d2[i] = fmaf(d.x, d.x, fmaf(d.y, d.y, d2[i]));
      *reinterpret_cast<float2*>(out + (row + 8 * i) * kTile + 8 * j + col) =
          make_float2(fmaf(k2[i], reach[4 * j + 2 * i], h2[i] * d.x),
                      fmaf(k2[i], reach[4 * j + 2 * i + 1], h2[i] * d.y));
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    d2[i] = quad_sum(d2[i]);
    if ((lane & 3) != 0) continue;
    extra.floats(block, extra_kept::kK2)[row + 8 * i] = k2[i];
    extra.floats(block, extra_kept::kD2)[row + 8 * i] = d2[i];
    extra.floats(block, extra_kept::kD1)[row + 8 * i] = d1[i];
  }
}

}  // namespace

void launch_clamp_keys(const CommonParams& p, const Kept& kept, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage);
  launch_kernel(clamp_keys_kernel, {p.segment.sequences * p.segment.chunks, 128, kBytes}, stream, p,
                kept);
}

}  // namespace mnemo::memory
