// The fused ops on the GPU that only counts (counting_backend.h): each takes and keeps what the
// kernels of ../cuda/ take and keep, in the same order, and computes nothing. A test on a GPU
// compares the two (tests/core/cuda/footprint_test.cc).
#pragma once

#include <memory>
#include <vector>

#include "src/core/backend.h"
#include "src/core/tensor.h"

namespace mnemo {

// Kernels choose their grids by it, and with that a little of their scratch: an H100's.
inline constexpr int kCountedMultiprocessors = 132;

// Scratch of a kernel, held as long as the object lives.
class CountedScratch {
 public:
  explicit CountedScratch(Device device) : backend_(Backend::For(device)) {}
  void Take(int64_t bytes) { pieces_.push_back(backend_.Allocate(bytes)); }

 private:
  Backend& backend_;
  std::vector<std::shared_ptr<Storage>> pieces_;
};

// Registers all of them for kCountingGpuType; once.
void RegisterCountedKernels();

void RegisterCountedAttention();
void RegisterCountedCrossEntropy();
void RegisterCountedGates();
void RegisterCountedLayers();
void RegisterCountedMemoryScan();

}  // namespace mnemo
