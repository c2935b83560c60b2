// Whether a memory stays finite over a long sequence, measured in f64 head by head.
//
// Two growths, over T tokens and at chunk boundaries, where a chunk c begins with (W_c, S_c):
//   adjoint       max over c of |dL/d(W_c, S_c)| / |dL/d(W, S) at the start of the last chunk|,
//                 L a fixed random projection of the last chunk's outputs;
//   perturbation  max over c of |delta(W_c, S_c)| / |delta W_0| for a random delta W_0 of relative
//                 size 1e-10.
// The first says whether a gradient survives the way back, the second whether rounding errors
// survive the way forward. Both include the boundary that they are relative to, so that neither is
// below 1. With forgetting towards INITIAL, W_0 as the target of forgetting is held fixed: only the
// state is perturbed and differentiated. docs/numerics.md says what the numbers mean.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "src/core/fused/memory_scan.h"

namespace mnemo {

// Above this growth a memory is taken to explode.
inline constexpr double kGrowthLimit = 100;

// A memory and what it reads: B = 1, every tensor f64 on the CPU.
struct MemoryRun {
  MemoryRule rule;
  MemoryParameters parameters;  // [H, ..]
  int64_t heads = 1;            // H
  int64_t tokens = 0;           // T
  // Inputs of tokens [begin, end), [1, H, end - begin, ..]. A pure function: ranges are asked for
  // more than once.
  std::function<MemoryTokens(int64_t begin, int64_t end)> inputs;
};

// What one head did. A growth is infinite where a value overflowed or was not a number.
struct HeadGrowth {
  double adjoint = 0;
  int64_t adjoint_token = 0;  // first token of the chunk where it was reached
  double perturbation = 0;
  int64_t perturbation_token = 0;
  double first_adjoint = 0;  // |dL/d(W, S)| before the first token
  double last_adjoint = 0;   // and before the last chunk
  double first_state = 0;    // |(W, S)| before the first token
  double largest_state = 0;  // and the largest of all boundaries
  bool Passes() const { return adjoint <= kGrowthLimit && perturbation <= kGrowthLimit; }
};

// Runs the whole chunks of `run.tokens` (two at least): once forward, with the perturbed state
// beside the other, and once back, chunk by chunk from states kept every sqrt(T / chunk) chunks, so
// that memory grows with the root of the length. `seed` decides the perturbation and projection.
// Throws TensorError.
std::vector<HeadGrowth> MeasureGrowth(const MemoryRun& run, uint64_t seed);

// The largest |(W, S)| of each head over all chunk boundaries; infinite where it overflowed.
std::vector<double> LargestStates(const MemoryRun& run);

}  // namespace mnemo
