// What src/core/cuda/memory/hopper.cuh offers, on tests/simt's stand-in for a GPU. Found in its
// place.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace mnemo::memory {

using bf16 = __nv_bfloat16;

using Acc = float[32];
using Part = float[8];
using Columns = uint32_t[4];

// ---- Launches and addresses ----------------------------------------------------------------

struct Grid {
  int blocks, threads;
  int bytes = 0;
  int cluster = 1;
};

template <typename... P>
void launch_kernel(void (*kernel)(P...), const Grid& grid, cudaStream_t,
                   std::type_identity_t<P>... args) {
  simt::RunGrid(grid.blocks, grid.threads, grid.bytes, grid.cluster, [&] { kernel(args...); });
}

#define MNEMO_SHARED_MEMORY(name) std::byte* const name = simt::SharedMemory()

inline uint32_t smem_address(const void* p) { return simt::SharedAddress(p); }
inline void make_opaque(int&) {}

// ---- Numbers -------------------------------------------------------------------------------

inline uint32_t pack(float lo, float hi) {
  return __float2bfloat16(lo).bits | static_cast<uint32_t>(__float2bfloat16(hi).bits) << 16;
}

inline float approximate_tanh(float u) { return std::tanh(u); }

inline void add_floats(float* to, const float (&x)[4]) {
  for (int i = 0; i < 4; ++i) to[i] += x[i];
}

// ---- Matrix instructions of a warpgroup ------------------------------------------------------

inline void wgmma_fence() {}
inline void wgmma_commit() { simt::CommitProducts(); }
template <int kPending>
void wgmma_wait() {
  simt::WaitForProducts(kPending);
}
template <int n>
void settle(float (&)[n]) {}

// The first byte that a matrix descriptor names.
inline uint32_t described(uint64_t descriptor) {
  return static_cast<uint32_t>(descriptor & 0x3fff) << 4;
}

template <int kSign, int kTransA, int kTransB, int kRegisters>
void wgmma_ss(float (&d)[kRegisters], uint64_t a, uint64_t b, int accumulate) {
  simt::StartProduct({d, 2 * kRegisters, nullptr, described(a), described(b), kTransA != 0,
                      kTransB != 0, kSign, accumulate != 0});
}

template <int kSign, int kTransB, int kRegisters>
void wgmma_rs(float (&d)[kRegisters], const uint32_t* a, uint64_t b, int accumulate) {
  simt::StartProduct(
      {d, 2 * kRegisters, a, 0, described(b), false, kTransB != 0, kSign, accumulate != 0});
}

// ---- Matrix instructions of a warp -----------------------------------------------------------

inline void load_matrices(uint32_t* x, uint32_t address) {
  const simt::Lanes lanes = simt::Exchange("ldmatrix", address);
  const int lane = simt::Lane();
  for (int i = 0; i < 4; ++i)
    std::memcpy(x + i, simt::AtAddress(lanes.at<uint32_t>(8 * i + lane / 4)) + 4 * (lane % 4), 4);
}

inline void load_matrices_transposed(uint32_t* x, uint32_t address) {
  const simt::Lanes lanes = simt::Exchange("ldmatrix.trans", address);
  const int lane = simt::Lane();
  for (int i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (int e = 0; e < 2; ++e) {
      const auto row = lanes.at<uint32_t>(8 * i + 2 * (lane % 4) + e);
      std::memcpy(pair + e, simt::AtAddress(row) + 2 * (lane / 4), 2);
    }
    std::memcpy(x + i, pair, 4);
  }
}

struct StoredLane {
  uint32_t address, x[4];
};

inline void store_matrices(uint32_t address, const uint32_t* x) {
  const simt::Lanes lanes =
      simt::Exchange("stmatrix", StoredLane{address, {x[0], x[1], x[2], x[3]}});
  const int matrix = simt::Lane() / 8, row = simt::Lane() % 8;  // whose address this lane gave
  for (int i = 0; i < 4; ++i) {
    const uint32_t pair = lanes.at<StoredLane>(4 * row + i).x[matrix];
    std::memcpy(simt::AtAddress(address) + 4 * i, &pair, 4);
  }
}

inline void store_matrices_transposed(uint32_t address, const uint32_t* x) {
  const simt::Lanes lanes =
      simt::Exchange("stmatrix.trans", StoredLane{address, {x[0], x[1], x[2], x[3]}});
  const int matrix = simt::Lane() / 8, row = simt::Lane() % 8;
  for (int i = 0; i < 8; ++i) {
    const uint32_t pair = lanes.at<StoredLane>(4 * i + row / 2).x[matrix];
    const auto element = static_cast<uint16_t>(row % 2 == 0 ? pair : pair >> 16);
    std::memcpy(simt::AtAddress(address) + 2 * i, &element, 2);
  }
}

struct MmaLane {
  uint32_t a[4], b[2];
};

inline void mma(float* c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const simt::Lanes lanes = simt::Exchange("mma", MmaLane{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const auto half = [](uint32_t pair, int e) {
    return __uint_as_float(e == 0 ? pair << 16 : pair & 0xffff0000u);
  };
  const int lane = simt::Lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), col = 2 * (lane % 4) + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; ++k) {
      const auto left = lanes.at<MmaLane>(4 * (row % 8) + k % 8 / 2);
      const auto right = lanes.at<MmaLane>(4 * col + k % 8 / 2);
      sum += half(left.a[row / 8 + 2 * (k / 8)], k % 2) * half(right.b[k / 8], k % 2);
    }
    c[i] += sum;
  }
}

// ---- Barriers and copies -----------------------------------------------------------------------

inline void group_sync(int barrier, int threads = 128) { simt::BlockBarrier(barrier, threads); }

inline void copy_async(uint32_t to, const void* from, bool valid) {
  simt::CopyAsync(to, from, 16, valid ? 16 : 0);
}
inline void copy_float_async(float* to, const float* from, bool valid) {
  simt::CopyAsync(smem_address(to), from, 4, valid ? 4 : 0);
}
inline void copy_commit() { simt::CopyCommit(); }
template <int kPending>
void copy_wait() {
  simt::CopyWait(kPending);
}

inline void fence_async() {}

inline void mbar_init(uint64_t* bar, int count) { simt::BarrierInit(smem_address(bar), count); }
inline void mbar_init_fence() {}
inline void mbar_expect(uint64_t* bar, uint32_t bytes) {
  simt::BarrierArrive(smem_address(bar), bytes);
}
inline void mbar_wait(uint64_t* bar, uint32_t parity) {
  simt::BarrierWait(smem_address(bar), parity);
}
inline void mbar_arrive(uint64_t* bar) { simt::BarrierArrive(smem_address(bar), 0); }

inline void bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* bar) {
  simt::BulkLoad(smem_address(to), from, bytes, smem_address(bar));
}
inline void bulk_prefetch(const void*, uint32_t) {}
inline void bulk_store(void* to, const void* from, uint32_t bytes) {
  simt::BulkStore(to, smem_address(from), bytes);
}
inline void bulk_commit() { simt::BulkCommit(); }
template <int kPending = 0>
void bulk_wait_read() {
  simt::BulkWait(kPending);
}
inline void bulk_wait() { simt::BulkWait(0); }

inline uint32_t cluster_rank() { return simt::ClusterRank(); }
inline uint32_t map_rank(uint32_t address, uint32_t rank) {
  return simt::AddressInRank(address, rank);
}
inline void cluster_sync() { simt::ClusterBarrier(); }
inline void send(uint32_t address, uint2 x, uint32_t bar) { simt::Send(address, &x, 8, bar); }

}  // namespace mnemo::memory
