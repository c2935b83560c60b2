// A memory of depth 1 without layer norm: the sequential half of its forward pass.
//
// One warpgroup runs one sequence: W and S [out, in] are fp32 in registers, their operand copies
// double-buffered in shared memory, so that one is stored to memory while the next one is made.
#include "src/core/cuda/memory/memory_rows.cuh"
#include "src/core/cuda/memory/memory_slice.cuh"

namespace mnemo::memory {
namespace {

struct SharedStorage {
  alignas(1024) bf16 state[2][2][kTileElements];  // W, S
  bf16 k[2][kTileElements], v[2][kTileElements];  // this chunk's and the next one's
  bf16 scaled[2][kTileElements];                  // g delta, p delta [token, out]
  float coefficients[2][kCoefficients];
};

struct Params {
  CommonParams common;
  MemoryScanCarry in, out;
};

__device__ void prefetch(const Params& p, SharedStorage& s, int sequence, int chunk) {
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

__global__ void __launch_bounds__(128, 2) flat_states_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) char raw[];
  SharedStorage& s = *reinterpret_cast<SharedStorage*>(raw);
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
  prefetch(p, s, sequence, 0);
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
    }
    wgmma_wait<0>();
    settle(acc);
    Frag gd, pd;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 key = tile_pair(k, row + 8 * i, 8 * j + col);
        const float2 value = tile_pair(v, row + 8 * i, 8 * j + col);
        const float gs = g[row + 8 * i], ps = g[kTile + row + 8 * i];
        const float x = acc[4 * j + 2 * i] + fmaf(residual, key.x, -value.x);
        const float y = acc[4 * j + 2 * i + 1] + fmaf(residual, key.y, -value.y);
        gd[2 * j + i] = pack(gs * x, gs * y);
        pd[2 * j + i] = pack(ps * x, ps * y);
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
    store_state(1 - parity);
    copy_wait<0>();
    fence_async();
    __syncthreads();
  }
  store_slice(w, p.out.w1, sequence, 0, false, 1);
  store_slice(m, p.out.s1, sequence, 0, false, 1);
  if (thread == 0) bulk_wait();
}

}  // namespace

void launch_flat_states(const CommonParams& p, const MemoryScanCarry& in,
                        const MemoryScanCarry& out, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage);
  cudaFuncSetAttribute(flat_states_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  flat_states_kernel<<<p.segment.sequences, 128, kBytes, stream>>>({p, in, out});
}

}  // namespace mnemo::memory
