// The parts of memory_scan_check.
#pragma once

#include "tests/bench/memory_scan/device_case.h"

namespace mnemo::memory_bench {

MemoryScanShape Shape(int64_t batch, int64_t tokens, int64_t heads, int chunk = 64);

// Streams for a case: the main one first, of higher priority than the other two.
struct Streams {
  cudaStream_t main, side[2];
  Streams();
};

struct CheckChoice {
  bool backward = true;
  int chunk = 0;                            // 0: all lengths
  bool small = false;                       // without the cases of many chunks
  void (*before_call)(int call) = nullptr;  // see Case
};

// The checks against the float64 reference; prints what it finds. False if one fails.
bool CheckAll(const CheckChoice& choice);

// Times the benchmark shapes and writes JSON to `file`. Returns the exit status.
int Bench(const char* file, bool backward);

// Errors over 1,000 chunks, of the kernels and of exact arithmetic on rounded operands, as JSON.
int Growth(const char* file);

}  // namespace mnemo::memory_bench
