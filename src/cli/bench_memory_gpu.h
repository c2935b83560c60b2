// `mnemo bench memory --device cuda`.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "src/job/memory_scan_bench.h"

namespace mnemo {

struct GpuMemoryBench {
  std::vector<MemoryScanCase> cases;
  bool compare = false;            // with PyTorch and FLA
  std::string python = "python3";  // that has them
  std::string json, plot;          // files to write, or empty
};

// Measures and prints a table; writes what it was asked to. A side of the comparison that is not
// there is left out with a line; one that fails makes an error, after everything has been written.
absl::Status BenchMemoryOnGpu(const GpuMemoryBench& options);

}  // namespace mnemo
