// One case of the CUDA memory scan against the float64 reference.
#pragma once

#include "tests/bench/memory_scan/device_case.h"

namespace mnemo::memory_bench {

// Runs the case twice, compares the bits of both and `sequences_to_check` sequences (gates'
// gradients and what sums over the batch: all) with the reference; prints a line. False if
// something is off.
bool CheckCase(const Case& c, const char* title, int sequences_to_check);

}  // namespace mnemo::memory_bench
