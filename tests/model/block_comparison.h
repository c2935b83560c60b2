// One call of a block in some dtype on some device against the same call in f64 on the CPU: its
// rows, its carry, and the gradients of its parameters, its rows and the carry that came in.
#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "src/core/fused_op.h"
#include "src/model/spec.h"

namespace mnemo::testing {

// A slice of two sequences. Begins at `position` with a carry that is the slices' before it, made
// on the CPU.
struct BlockCase {
  std::string name;  // letters, digits and _
  ModelSpec spec;    // of one layer
  int64_t position = 0, length = 0;
  // Where documents begin (MakeSliceContext), the second sequence's flags behind the first's.
  std::vector<uint8_t> resets = {};
  // In bf16 a GPU has a kernel for every fused op of it, and none refuses.
  bool kernels = false;

  friend std::ostream& operator<<(std::ostream& out, const BlockCase& block) {
    return out << block.name;
  }
};

// Every block and its variants of tests/model/tiny_model.h, at the beginning of a sequence and
// further on, ending inside a chunk, with documents; and every block as large as kernels ask for.
std::vector<BlockCase> BlockCases();

// What is compared with f64.
struct BlockForm {
  DType dtype = DType::kF32;  // bf16: mixed precision, as in training
  Device device = {};
  FusedPolicy policy = {};  // while it runs there
  // Called before either pass, once what goes into it is on the device. May be empty.
  std::function<void()> poison = {};
};

// Reports (gtest) what is further from f64 than rounding can explain, what is not finite, and what
// differs between two runs, or between keeping much for the backward pass and keeping little.
//
// A tensor's bound is computed. Its sensitivity is how far it moves, in relative L2 norm, where
// every parameter, input and output gradient moves at random by a relative unit, in f64. A pass
// that rounds a row of tensors on the way, each independently, moves it by the root of their number
// times as much, times the deviation of a rounding. No element may be off by more than six times
// the bound of the largest.
void CompareBlock(const BlockCase& block, const BlockForm& form);

// Runs forward and backward in bf16 on the GPU that only counts (src/core/counting_backend.h) under
// a strict policy: throws where a kernel would refuse.
void RequireKernels(const BlockCase& block);

}  // namespace mnemo::testing
