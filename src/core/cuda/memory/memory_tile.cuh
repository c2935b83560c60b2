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

#include "src/core/cuda/memory/hopper.cuh"
#include "src/core/cuda/memory/memory_buffers.h"

namespace mnemo::memory {

using Frag = uint32_t[16];  // a 64 x 64 product as bf16 pairs: the A operand of four k-steps

__device__ inline int swizzle_offset(int row, int col) {  // in bytes; col even
  return row * 128 + ((((col >> 3) ^ row) & 7) << 4) + (col & 7) * 2;
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
  for (int k = 0; k < 4; ++k) load_matrices(frag + 4 * k, base ^ (32 * k));
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
    uint32_t x[4];
    load_matrices_transposed(x, from + 2048 * k);
    p[128 * k] = make_uint4(x[0], x[1], x[2], x[3]);
  }
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
}  // namespace mnemo::memory
