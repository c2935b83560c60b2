// A memory of depth 1 without layer norm: its reads and their adjoint, in parallel over blocks.
//
// One warpgroup a block, tokens on M; two or three CTAs share an SM.
#include "src/core/cuda/memory/memory_gates.cuh"
#include "src/core/cuda/memory/memory_rows.cuh"

namespace mnemo::memory {
namespace {

template <bool kBackward>
struct SharedStorage {
  alignas(1024) bf16 state[2][kTileElements];  // W, S [out, in]; then A_t dy_t, B_t dy_t
  bf16 q[kTileElements], k[kTileElements];
  bf16 d[kTileElements];  // v until the deltas are known
  bf16 dy[kBackward ? kTileElements : 512];
  bf16 mask[kBackward ? kTileElements : 512];  // G o Q K^T, then G o dY D^T
  ChunkGates gates;
  uint64_t bar;
};

struct Params {
  CommonParams common;
  Rows y;         // reading: out; backward: dy
  Rows dq;        // backward only
  FlatKept kept;  // backward only
};

__device__ void scale_rows(Frag& out, const Frag& x, const float (&scale)[2]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(x[i]);
    out[i] = pack(scale[i & 1] * v.x, scale[i & 1] * v.y);
  }
}

// Sums over this thread's rows of a o b, by all four lanes of a row.
__device__ void row_dots(float (&sum)[2], const Acc& a, const Frag& b) {
  sum[0] = sum[1] = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const float2 v = unpack(b[i]);
    sum[i & 1] = fmaf(a[2 * i], v.x, fmaf(a[2 * i + 1], v.y, sum[i & 1]));
  }
  sum[0] = quad_sum(sum[0]), sum[1] = quad_sum(sum[1]);
}

// x += y from a tile's rows, in place.
__device__ void add_rows(Acc& x, const bf16* tile, float scale) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 v = tile_pair(tile, row + 8 * i, 8 * j + col);
      x[4 * j + 2 * i] = fmaf(scale, v.x, x[4 * j + 2 * i]);
      x[4 * j + 2 * i + 1] = fmaf(scale, v.y, x[4 * j + 2 * i + 1]);
    }
  }
}

// The reads' adjoint, dy = dz. r = Q K^T; the mask's tile holds G o r.
__device__ void reads_backward(const Params& p, SharedStorage<true>& s, int block, const Acc& r,
                               const float (&decay)[2], const float (&push)[2], Acc& dq) {
  const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const int row = 16 * warp + lane / 4, col = 2 * (lane & 3);
  Acc t, zs, dd;
  wgmma_fence();
  product<1, false, false>(t, s.dy, s.d, false);
  product<-1, true, true>(dd, s.mask, s.dy, false);
  wgmma_commit();
  product<1, false, true>(dq, s.dy, s.state[0], false);
  product<1, false, true>(zs, s.dy, s.state[1], false);
  wgmma_commit();
  wgmma_wait<1>();
  settle(t), settle(dd);
  store_fragment(p.kept.tile(block, flat_kept::kDd), dd);
  float4* dg = reinterpret_cast<float4*>(p.kept.tile(block, flat_kept::kDg)) + thread;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    dg[128 * j] = make_float4(-r[4 * j] * t[4 * j], -r[4 * j + 1] * t[4 * j + 1],
                              -r[4 * j + 2] * t[4 * j + 2], -r[4 * j + 3] * t[4 * j + 3]);
  }
  Frag m, f, scaled;
  mask(m, t, s.gates, row, col);
  wgmma_wait<0>();
  settle(dq), settle(zs);
  __syncthreads();  // mask and state have been read
  store_frag(s.mask, m);
  load_frag(f, s.dy);
  scale_rows(scaled, f, decay), store_frag(s.state[0], scaled);
  scale_rows(scaled, f, push), store_frag(s.state[1], scaled);
  fence_async();
  load_frag(f, s.q);
  float da[2], db[2];
  row_dots(da, dq, f);
  row_dots(db, zs, f);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if ((lane & 3) == 0) {
      p.kept.floats(block, flat_kept::kDa)[row + 8 * i] = da[i];
      p.kept.floats(block, flat_kept::kDb)[row + 8 * i] = db[i];
    }
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const int k = (i >> 1) & 1;
    dq[i] = fmaf(decay[k], dq[i], push[k] * zs[i]);
  }
  __syncthreads();
  wgmma_fence();
  product<-1, true>(dq, m, s.k, true);
  product<-1, true, true>(dd, s.mask, s.q, false);
  wgmma_commit();
  product<1, true, true>(t, s.state[0], s.q, false);
  product<1, true, true>(zs, s.state[1], s.q, false);
  wgmma_commit();
  wgmma_wait<0>();
  settle(dq), settle(dd), settle(t), settle(zs);
  store_fragment(p.kept.tile(block, flat_kept::kDk), dd);
  store_fragment(p.kept.tile(block, flat_kept::kDw), t);
  store_fragment(p.kept.tile(block, flat_kept::kDs), zs);
}

template <bool kBackward>
__global__ void __launch_bounds__(128, 2) flat_read_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(1024) char raw[];
  SharedStorage<kBackward>& s = *reinterpret_cast<SharedStorage<kBackward>*>(raw);
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
    mbar_expect(&s.bar, 2 * kTileBytes);
    bulk_load(s.state, p.common.states + int64_t{block} * kFlatStateElements, 2 * kTileBytes,
              &s.bar);
  }
  const auto load = [&](bf16* tile, const Rows& rows) {
    copy_rows_async(tile, rows.at(seg, sequence, first), rows.token_stride, count, thread);
  };
  load(s.q, p.common.q), load(s.k, p.common.k), load(s.d, p.common.v);
  if (kBackward) load(s.dy, p.y);
  copy_commit();
  load_gates(s.gates, p.common, sequence, chunk, thread);
  __syncthreads();
  fill_g(s.gates, warp);
  copy_wait<0>();
  fence_async();
  __syncthreads();
  const float decay[2] = {s.gates.g[row][kTile + 1], s.gates.g[row + 8][kTile + 1]};  // A_t
  const float push[2] = {s.gates.g[row][kTile], s.gates.g[row + 8][kTile]};           // B_t
  mbar_wait(&s.bar, 0);
  Acc r, acc;
  wgmma_fence();
  product<1, false, false>(r, s.q, s.k, false);
  product<1, false, false>(acc, s.k, s.state[0], false);
  wgmma_commit();
  wgmma_wait<0>();
  settle(r), settle(acc);
  add_rows(acc, s.k, residual);
  add_rows(acc, s.d, -1);
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
  if constexpr (kBackward) {
    reads_backward(p, s, block, r, decay, push, acc);
    add_rows(acc, s.dy, residual);
  } else {
    Frag q, scaled;
    load_frag(q, s.q);
    scale_rows(scaled, q, decay);
    scale_rows(q, q, push);
    wgmma_fence();
    product<1, false>(acc, scaled, s.state[0], false);
    product<1, false>(acc, q, s.state[1], true);
    product<-1, true>(acc, masked, s.d, true);
    wgmma_commit();
    wgmma_wait<0>();
    settle(acc);
    add_rows(acc, s.q, residual);
  }
  to_frag(d, acc);
  __syncthreads();  // k has been read: its tile takes the result
  store_frag(s.k, d);
  __syncthreads();
  const Rows& out = kBackward ? p.dq : p.y;
  write_rows(out.at(seg, sequence, first), out.token_stride, s.k, count, thread);
}

template <bool kBackward>
void launch(const Params& p, cudaStream_t stream) {
  constexpr int kBytes = sizeof(SharedStorage<kBackward>);
  static_assert(2 * (kBytes + 1024) <= 228 * 1024);
  cudaFuncSetAttribute(flat_read_kernel<kBackward>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       kBytes);
  const int blocks = p.common.segment.sequences * p.common.segment.chunks;
  flat_read_kernel<kBackward><<<blocks, 128, kBytes, stream>>>(p);
}

}  // namespace

void launch_flat_read(const CommonParams& p, const Rows& y, cudaStream_t stream) {
  launch<false>({p, y, {}, {nullptr}}, stream);
}

void launch_flat_read_backward(const CommonParams& p, const Rows& dy, const Rows& dq,
                               const FlatKept& kept, cudaStream_t stream) {
  launch<true>({p, dy, dq, kept}, stream);
}

}  // namespace mnemo::memory
