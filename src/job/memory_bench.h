// Speed of the memory scan alone: forward, and forward and backward.
#pragma once

#include <cstdint>

#include "src/core/fused/memory_scan.h"

namespace mnemo {

struct MemoryBenchOptions {
  MemoryRule rule;
  int64_t batch = 1, heads = 16, tokens = 4096;
  DType dtype = DType::kF32;
  int iterations = 5;
};

struct MemoryBenchResult {
  double forward = 0;   // seconds, the median of the iterations
  double training = 0;  // seconds of forward and backward; gradients of all inputs, gates and W_0
  double forward_flops = 0, training_flops = 0;  // matrix products only; backward counted as twice
  int64_t tokens = 0;                            // of all sequences
};

// Random keys, queries and values of norm 1, gates as at first weights. Runs on the CPU with the
// threads of the calling thread. Throws TensorError.
MemoryBenchResult BenchMemory(const MemoryBenchOptions& options);

}  // namespace mnemo
