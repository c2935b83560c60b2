// Checks the CUDA memory scan against the float64 reference and times it.
//
//   memory_scan_check check [CHUNK]      every check, or one chunk's; exit status 1 if one fails
//   memory_scan_check bench FILE         times the benchmark shapes, writes JSON to FILE
//   memory_scan_check growth FILE        errors over 1,000 chunks, as JSON
//   memory_scan_check sanitize           small calls of every kernel, for compute-sanitizer
//   memory_scan_check profile [CHUNK]    one call of the first benchmark shape, for a profiler
//
// --forward-only leaves the backward pass out.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/bench/memory_scan/scan_check.h"

namespace mnemo::memory_bench {

namespace {

// With and without what backward needs being retained.
void Run(const MemoryScanShape& shape, bool backward) {
  for (const bool retain : {false, true}) {
    DeviceCase d({shape, 1, backward, retain}, false);
    Check(d.Forward(nullptr), "forward");
    if (backward) Check(d.Backward(nullptr), "backward");
    Check(cudaDeviceSynchronize(), "run");
  }
}

}  // namespace
}  // namespace mnemo::memory_bench

int main(int argc, char** argv) {
  using namespace mnemo::memory_bench;
  const std::string mode = argc > 1 ? argv[1] : "";
  const int chunk = argc > 2 ? std::atoi(argv[2]) : 0;  // 0 when it is no number
  bool backward = true;
  for (int i = 1; i < argc; ++i)
    if (std::string(argv[i]) == "--forward-only") backward = false;
  if (mode == "check") {
    const bool good = CheckAll({backward, chunk});
    std::printf(good ? "all checks passed\n" : "CHECKS FAILED\n");
    return good ? 0 : 1;
  }
  if (mode == "bench" && argc > 2) return Bench(argv[2], backward);
  if (mode == "growth" && argc > 2) return Growth(argv[2]);
  if (mode == "sanitize") {
    Run(Shape(1, 150, 2), backward);
    Run(Shape(1, 40, 2, 16), backward);
    Run(FlatShape(Shape(1, 150, 2)), backward);
    mnemo::MemoryScanShape options = Shape(1, 150, 2);
    options.towards_initial = options.resets = true, options.clamp = 60;
    Run(options, backward);
    Run(BareShape(options), backward);
    options.row_scale = options.biases = true;
    Run(options, backward);
    options.row_scale = options.biases = false;
    Run(FlatNormShape(Shape(1, 150, 2)), backward);
    Run(FlatShape(options), backward);
    Run(FlatNormShape(options), backward);
    return 0;
  }
  if (mode == "profile") {
    Run(Shape(4, 8192, 16, chunk > 0 ? chunk : 64), backward);
    return 0;
  }
  std::fprintf(stderr,
               "usage: memory_scan_check check | bench FILE | growth FILE | sanitize | profile\n");
  return 2;
}
