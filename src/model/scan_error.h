// How far a memory's scan in bf16, on some device, is from f64, on what a model's memory reads
// (memory_trace.h): values, carry and every derivative.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/core/tensor.h"
#include "src/model/stability.h"

namespace mnemo {

struct ScanError {
  std::string name;     // "y"; "W1", "S1", .. of the carry; "d q", "d theta", "d W_0 of 1", ..
  double relative = 0;  // |got - wanted| / |wanted|, L2 over all heads; infinite if not a number
};
struct ScanErrors {
  std::vector<ScanError> values, carry, gradients;
  bool kernel = false;  // the device has computed it with a kernel of its own
};

// The state before each of `tokens`, ascending multiples of the chunk below run.tokens, in f64.
std::vector<MemoryState> StatesBefore(const MemoryRun& run, std::span<const int64_t> tokens);

// Runs the tokens [begin, end), whole chunks, from the state before them, forward and backward from
// random adjoints of y and of the state after the last token: on `device` with q, k, v in bf16 and
// all else in f32, and on the CPU in f64 with inputs rounded alike. Gradients are of tokens,
// parameters and state. Throws TensorError.
ScanErrors MeasureScanErrors(const MemoryRun& run, const MemoryState& state, int64_t begin,
                             int64_t end, Device device, uint64_t seed);

}  // namespace mnemo
