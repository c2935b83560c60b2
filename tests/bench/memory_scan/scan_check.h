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

// Every check against the float64 reference, or those of one chunk length (0: all); prints what it
// finds. False if one fails.
bool CheckAll(bool backward, int only_chunk);

// Times the benchmark shapes and writes JSON to `file`. Returns the exit status.
int Bench(const char* file, bool backward);

// Errors over 1,000 chunks, of the kernels and of exact arithmetic on rounded operands, as JSON.
int Growth(const char* file);

}  // namespace mnemo::memory_bench
