// A CPU's stand-in for a GPU: runs a kernel's threads as fibers, one at a time, so that kernels can
// be checked where there is no GPU. It keeps to what the programming model promises and to no more:
//
// - A thread runs until it waits. In which order warps get their turn is up to Settings.
// - Asynchronous work (copies, matrix products, stores to other blocks of a cluster) happens either
//   at once or as late as its wait allows. Sums of a product not yet awaited are NaN.
// - Shared memory is NaN when a block begins.
//
// So a kernel whose result changes with the settings lacks a barrier or a wait. What it does not
// see: fences between proxies and memory orders, timing, registers. Clusters run one after another.
//
// Errors of the kernel (threads that wait for ever, lanes of a warp at different instructions,
// stores still reading shared memory when their thread ends) end the program with a message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

namespace mnemo::simt {

struct Settings {
  bool late = false;       // asynchronous work is done at its wait, not at once
  bool backwards = false;  // the last warp goes first
};
extern Settings settings;

struct Dim {
  unsigned x = 1, y = 1, z = 1;
  Dim() = default;
  Dim(unsigned nx, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz) {}  // NOLINT
  Dim(int nx) : x(static_cast<unsigned>(nx)) {}                                // NOLINT
  unsigned count() const { return x * y * z; }
};

struct Thread;
struct Block;
struct Warp;

// The thread that runs.
extern Thread* current;
const Dim& ThreadIndex();
const Dim& BlockIndex();
const Dim& BlockSize();
const Dim& GridSize();

// Runs body by every thread of a grid; `bytes` of dynamic shared memory a block. Host threads take
// turns.
void RunGrid(const Dim& blocks, const Dim& threads, int bytes, int cluster,
             const std::function<void()>& body);

// What launches.py makes of CUDA's launches.
inline void Launch(const Dim& blocks, const Dim& threads, int bytes, const void* /*stream*/,
                   const std::function<void()>& body) {
  RunGrid(blocks, threads, bytes, 1, body);
}

// The device's memory. Null where no more is left.
constexpr size_t kDeviceBytes = size_t{4} << 30;
void* Allocate(size_t bytes);
void Free(void* p);
size_t AllocatedBytes();

// ---- What threads of a warp, block or cluster do together --------------------------------------

// What the lanes of a warp brought, until they meet again.
class Lanes {
 public:
  Lanes(const std::byte* slots, uint32_t present) : slots_(slots), present_(present) {}
  // Lanes that had not ended.
  uint32_t present() const { return present_; }
  template <typename T>
  T at(int lane) const {
    T x;
    std::memcpy(&x, slots_ + kSlot * static_cast<size_t>(lane), sizeof(T));
    return x;
  }
  static constexpr size_t kSlot = 64;

 private:
  const std::byte* slots_;
  uint32_t present_;
};

// All lanes of the warp that have not ended bring `size` bytes, to the instruction `what`.
Lanes Exchange(const char* what, const void* mine, size_t size);

template <typename T>
Lanes Exchange(const char* what, const T& mine) {
  static_assert(sizeof(T) <= Lanes::kSlot);
  return Exchange(what, &mine, sizeof(T));
}

int Lane();

// Barrier 0 of all threads of the block that have not ended, others of so many threads.
void BlockBarrier(int number, int threads);
void ClusterBarrier();
unsigned ClusterRank();

// ---- Shared memory -----------------------------------------------------------------------------

std::byte* SharedMemory();

// Addresses as instructions take them: an offset in the block's shared memory, marked with its
// block where it is another one's.
uint32_t SharedAddress(const void* p);
uint32_t AddressInRank(uint32_t address, uint32_t rank);
std::byte* AtAddress(uint32_t address);

void BarrierInit(uint32_t address, int count);
void BarrierArrive(uint32_t address, uint32_t expected_bytes);
void BarrierWait(uint32_t address, uint32_t parity);

// ---- Asynchronous work -------------------------------------------------------------------------

// A thread's copies in groups: `valid` bytes of `size`, then zeros.
void CopyAsync(uint32_t to, const void* from, int size, int valid);
void CopyCommit();
void CopyWait(int pending);

// From global to shared memory, or to another block's, counted on a barrier.
void BulkLoad(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier);
void Send(uint32_t to, const void* bytes, uint32_t size, uint32_t barrier);

void BulkStore(void* to, uint32_t from, uint32_t bytes);
void BulkCommit();
void BulkWait(int pending);

// Rows 16 w .. 16 w + 15 of a 64 x n x 16 product by warp w of a warpgroup: d (+)= sign A B. A is
// at an address or in a lane's registers. The operands are swizzled tiles of 128-byte rows, whose
// rows run over M or N, or over K.
struct Product {
  float* d;
  int n;
  const uint32_t* a_registers;  // null: at an address
  uint32_t a, b;
  bool a_rows_are_k, b_rows_are_k;
  float sign;
  bool accumulate;
};
void StartProduct(const Product& product);
void CommitProducts();
void WaitForProducts(int pending);

}  // namespace mnemo::simt
