// Building blocks of the memory-scan kernels: 64 x 64 bf16 tiles in shared memory, the matrix
// instructions on them, and the barriers around them. Hopper only (sm_90a).
//
// A tile is 64 rows of 64 bf16 (128 bytes a row, 8 KiB, 1024-byte aligned) with the 128-byte
// swizzle: the 16-byte piece c of row r lies at piece c ^ (r % 8). One tile serves as an operand
// in both directions: K-major when its rows run over M or N, MN-major when they run over K.
//
// A warpgroup (128 threads) holds a 64 x 64 fp32 product as 32 registers a thread: element
// (16 warp + lane / 4 + 8 i, 8 j + 2 (lane % 4) + e) is acc[4 j + 2 i + e].
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "src/core/cuda/memory/memory_buffers.h"

namespace mnemo::memory {

using bf16 = __nv_bfloat16;

using Acc = float[32];
using Frag = uint32_t[16];  // a 64 x 64 product as bf16 pairs: the A operand of four k-steps

__device__ inline uint32_t smem_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ inline int swizzle_offset(int row, int col) {  // in bytes; col even
  return row * 128 + ((((col >> 3) ^ row) & 7) << 4) + (col & 7) * 2;
}

__device__ inline uint32_t pack(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}

__device__ inline float2 unpack(uint32_t x) {
  return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u));
}

// ---- Matrix products -----------------------------------------------------------------------

// Matrix descriptor of a tile: 128-byte swizzle, 1024 bytes between groups of eight rows.
__device__ inline uint64_t tile_descriptor(const void* tile) {
  const uint64_t address = (smem_address(tile) & 0x3ffff) >> 4;
  return address | (uint64_t{1} << 16) | (uint64_t{64} << 32) | (uint64_t{1} << 62);
}

// The sixteen K elements of step k begin here, in descriptor units of 16 bytes.
template <bool kMajorMn>
__device__ inline uint64_t k_step(uint64_t descriptor, int k) {
  return descriptor + (kMajorMn ? 128 : 2) * k;
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// After a wait, before anything but a matrix product uses the sums: the compiler does not know that
// the wait is what completes them, and may take arithmetic on them ahead of it.
template <int n>
__device__ inline void settle(float (&x)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(x[i])::"memory");
}

#define MNEMO_ACC_OPERANDS(d)                                                                     \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define MNEMO_ACC_LIST                                                                          \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24," \
  "%25,%26,%27,%28,%29,%30,%31}"

// d (+)= sign * A B, one k-step of sixteen, both operands in shared memory.
template <int kSign, int kTransA, int kTransB>
__device__ inline void wgmma_ss(Acc& d, uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " MNEMO_ACC_LIST
      ", %32, %33, p, %35, 1, %36, %37; }\n"
      : MNEMO_ACC_OPERANDS(d)
      : "l"(a), "l"(b), "r"(accumulate), "n"(kSign), "n"(kTransA), "n"(kTransB));
}

// The same with A in registers.
template <int kSign, int kTransB>
__device__ inline void wgmma_rs(Acc& d, const uint32_t* a, uint64_t b, int accumulate) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " MNEMO_ACC_LIST
      ", {%32,%33,%34,%35}, %36, p, %38, 1, %39; }\n"
      : MNEMO_ACC_OPERANDS(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kSign),
        "n"(kTransB));
}

// d (+)= sign * A B over K = 64. kRowsX: the tile's rows run over the product's K dimension.
// Asynchronous: between fence and wait nobody may touch d, a or the tiles.
template <int kSign, bool kRowsKa, bool kRowsKb>
__device__ inline void product(Acc& d, const void* a, const void* b, bool accumulate) {
  const uint64_t da = tile_descriptor(a), db = tile_descriptor(b);
#pragma unroll
  for (int k = 0; k < 4; ++k)
    wgmma_ss<kSign, kRowsKa, kRowsKb>(d, k_step<kRowsKa>(da, k), k_step<kRowsKb>(db, k),
                                      accumulate || k > 0);
}

template <int kSign, bool kRowsKb>
__device__ inline void product(Acc& d, const Frag& a, const void* b, bool accumulate) {
  const uint64_t db = tile_descriptor(b);
#pragma unroll
  for (int k = 0; k < 4; ++k)
    wgmma_rs<kSign, kRowsKb>(d, a + 4 * k, k_step<kRowsKb>(db, k), accumulate || k > 0);
}

#define MNEMO_ACC16_OPERANDS(d)                                                                   \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15])

// Narrow forms: N is 32 (16 registers) or 16 (8 registers).
template <int kSign, int kTransA, int kTransB>
__device__ inline void wgmma_ss(float (&d)[16], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}"
      ", %16, %17, p, %19, 1, %20, %21; }\n"
      : MNEMO_ACC16_OPERANDS(d)
      : "l"(a), "l"(b), "r"(accumulate), "n"(kSign), "n"(kTransA), "n"(kTransB));
}

template <int kSign, int kTransA, int kTransB>
__device__ inline void wgmma_ss(float (&d)[8], uint64_t a, uint64_t b, int accumulate) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %10, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}"
      ", %8, %9, p, %11, 1, %12, %13; }\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7])
      : "l"(a), "l"(b), "r"(accumulate), "n"(kSign), "n"(kTransA), "n"(kTransB));
}

// Product with columns column, column + 1, .. of the result only (column a multiple of 8 that
// keeps them inside the tile).
template <int kSign, bool kRowsKa, bool kRowsKb, int kRegisters>
__device__ inline void narrow_product(float (&d)[kRegisters], const void* a, const void* b,
                                      int column, bool accumulate) {
  const uint64_t da = tile_descriptor(a);
  // Skipped columns are rows of a K-major tile, 16-byte pieces of an MN-major one.
  const uint64_t db = tile_descriptor(b) + (kRowsKb ? column / 8 : column * 8);
#pragma unroll
  for (int k = 0; k < 4; ++k)
    wgmma_ss<kSign, kRowsKa, kRowsKb>(d, k_step<kRowsKa>(da, k), k_step<kRowsKb>(db, k),
                                      accumulate || k > 0);
}

// ---- Fragments and tiles ------------------------------------------------------------------

// frag[4 k + {0, 1, 2, 3}] = columns 16 k + {0.., 0.., 8.., 8..} of rows {r, r + 8, r, r + 8}.
__device__ inline void to_frag(Frag& frag, const Acc& acc) {
#pragma unroll
  for (int i = 0; i < 16; ++i) frag[i] = pack(acc[2 * i], acc[2 * i + 1]);
}

// Where this lane's row of the four 8 x 8 matrices of step 0 lies; step k is at offset ^ 32 k.
__device__ inline uint32_t frag_offset() {
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
  const int row = 16 * warp + (lane & 15);
  return row * 128 + (((lane >> 4) ^ (row & 7)) << 4);
}

__device__ inline void store_matrices(uint32_t address, const uint32_t* x) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address),
               "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
               : "memory");
}

// Writes a fragment into a tile; each warp writes its own sixteen rows.
__device__ inline void store_frag(void* tile, const Frag& frag) {
  const uint32_t base = smem_address(tile) + frag_offset();
#pragma unroll
  for (int k = 0; k < 4; ++k) store_matrices(base ^ (32 * k), frag + 4 * k);
}

// The same for 32 columns from `column` (0 or 32) on.
__device__ inline void store_frag(void* tile, const uint32_t (&frag)[8], int column) {
  const uint32_t base = (smem_address(tile) + frag_offset()) ^ (2 * column);
#pragma unroll
  for (int k = 0; k < 2; ++k) store_matrices(base ^ (32 * k), frag + 4 * k);
}

// Reads a tile as a fragment of the same orientation.
__device__ inline void load_frag(Frag& frag, const void* tile) {
  const uint32_t base = smem_address(tile) + frag_offset();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(frag[4 * k]), "=r"(frag[4 * k + 1]), "=r"(frag[4 * k + 2]),
                   "=r"(frag[4 * k + 3])
                 : "r"(base ^ (32 * k))
                 : "memory");
  }
}

// A fragment in global memory, in register order: one 16-byte access a thread and step.
__device__ inline void store_fragment(bf16* to, const Frag& frag) {
  uint4* p = reinterpret_cast<uint4*>(to) + (threadIdx.x & 127);
#pragma unroll
  for (int k = 0; k < 4; ++k)
    p[128 * k] = make_uint4(frag[4 * k], frag[4 * k + 1], frag[4 * k + 2], frag[4 * k + 3]);
}
__device__ inline void load_fragment(Frag& frag, const bf16* from) {
  const uint4* p = reinterpret_cast<const uint4*>(from) + (threadIdx.x & 127);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint4 x = p[128 * k];
    frag[4 * k] = x.x, frag[4 * k + 1] = x.y, frag[4 * k + 2] = x.z, frag[4 * k + 3] = x.w;
  }
}
__device__ inline void store_fragment(bf16* to, const Acc& acc) {
  Frag frag;
  to_frag(frag, acc);
  store_fragment(to, frag);
}

// A tile's transpose as a fragment in global memory.
__device__ inline void store_transposed_fragment(bf16* to, const bf16* tile) {
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
  // This lane's row of the four 8 x 8 matrices of step 0; sixteen rows further each step.
  const int row = 8 * (lane >> 4) + (lane & 7), piece = 2 * warp + ((lane >> 3) & 1);
  const uint32_t from = smem_address(tile) + row * 128 + ((piece ^ (row & 7)) << 4);
  uint4* p = reinterpret_cast<uint4*>(to) + (threadIdx.x & 127);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint4 x;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(from + 2048 * k)
                 : "memory");
    p[128 * k] = x;
  }
}

// Sixteen bytes from global to shared memory; zeros where not `valid`.
__device__ inline void copy_async(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}

// Starts copying `rows` rows of 64 bf16 into a tile and zeroes the rest; 128 threads. Rows must be
// 16-byte aligned.
__device__ inline void copy_rows_async(void* tile, const bf16* source, int64_t stride, int rows,
                                       int thread) {
  const int row = thread >> 3, col = thread & 7;
  const uint32_t to = smem_address(tile) + swizzle_offset(row, 8 * col);
  const bf16* from = source + row * stride + 8 * col;
#pragma unroll
  for (int i = 0; i < 4; ++i) {  // sixteen rows further each time
    const bool valid = row + 16 * i < rows;
    copy_async(to + 2048 * i, valid ? from + 16 * i * stride : source, valid);
  }
}
__device__ inline void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- Barriers and bulk copies -------------------------------------------------------------

// Makes this thread's shared-memory accesses visible to the matrix units and the copy engine.
__device__ inline void fence_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ inline void mbar_init(uint64_t* bar, int count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(smem_address(bar)), "r"(count)
               : "memory");
}
__device__ inline void mbar_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void mbar_expect(uint64_t* bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(smem_address(bar)),
               "r"(bytes)
               : "memory");
}
__device__ inline void mbar_wait(uint64_t* bar, uint32_t parity) {
  asm volatile(
      "{ .reg .pred p;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@!p bra again; }\n" ::"r"(smem_address(bar)),
      "r"(parity)
      : "memory");
}

// Global to shared memory; 16-byte aligned; completes on `bar`.
__device__ inline void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* bar) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(smem_address(to)),
      "l"(from), "r"(bytes), "r"(smem_address(bar))
      : "memory");
}
// Brings 16-byte aligned global memory into the L2 cache.
__device__ inline void bulk_prefetch(const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
__device__ inline void bulk_store(void* to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(smem_address(from)), "r"(bytes)
               : "memory");
}
__device__ inline void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until the source of this thread's earlier stores may be overwritten, the last kPending aside.
template <int kPending = 0>
__device__ inline void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
__device__ inline void bulk_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

__device__ inline uint32_t cluster_rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
__device__ inline uint32_t map_rank(uint32_t address, uint32_t rank) {
  uint32_t r;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
  return r;
}
__device__ inline void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}
// Eight bytes into the shared memory of another CTA of the cluster (addresses from map_rank),
// counted on its barrier. A remote arrive with release would wait for all of the thread's earlier
// memory traffic, global stores included; this does not.
__device__ inline void send(uint32_t address, uint2 x, uint32_t bar) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.u32 [%0], {%1, %2}, [%3];" ::"r"(
          address),
      "r"(x.x), "r"(x.y), "r"(bar)
      : "memory");
}
__device__ inline void mbar_arrive(uint64_t* bar) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(smem_address(bar)) : "memory");
}

}  // namespace mnemo::memory
