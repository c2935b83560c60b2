// Speed of the memory scan as a training step calls it: the fused op on bf16 rows, on a tape.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/core/fused/memory_rule.h"
#include "src/job/op_timer.h"

namespace mnemo {

struct MemoryScanCase {
  MemoryRule rule;
  int64_t batch = 1, heads = 16, tokens = 4096;  // of a sequence
};

// "depth 1, GELU, chunk 64, B4 T8192": what differs from depth 2, SiLU and the usual options first.
std::string Name(const MemoryScanCase& scan);

// What the kernels of Hopper GPUs are judged by: 16 heads of 64 with momentum and forgetting,
// 32,768 tokens and more.
std::vector<MemoryScanCase> LargeMemoryScans();

struct MemoryScanWork {
  OpWork forward, backward;
  OpWork at_once;  // both, the backward pass following at once
};
// The rule's products, backward twice those of forward, whatever is computed again; bytes of rows
// and gates, each read or written once.
MemoryScanWork LeastWork(const MemoryScanCase& scan);
// The same, with the bytes that the CUDA kernels move (cuda/memory_scan_traffic.h) where they
// cover the case.
MemoryScanWork KernelWork(const MemoryScanCase& scan);

// Times the op from its first state under `name`, forward as training calls it, backward to the
// gradients of everything, and both at once, and reports the three with that work. Values are those
// of a stable regime: keys and queries of norm about 1, few is forgotten.
void TimeMemoryScan(const std::string& name, const MemoryScanCase& scan, const MemoryScanWork& work,
                    OpTimer& timer);

}  // namespace mnemo
