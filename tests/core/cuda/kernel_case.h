// One call of the waist on a GPU against the same call on the CPU in f64, in every dtype and on
// contiguous and strided views.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/core/cuda/gpu_case.h"

namespace mnemo::testing {

struct KernelCase {
  std::string name;
  std::vector<Tensor> inputs;  // f64, on the CPU; i32 stay as they are
  Shape out;
  std::function<void(Backend&, std::span<const Tensor> inputs, const Tensor& out)> run;
  // Roundings that an element sees, and of what: the largest output, or this if that is larger.
  double roundings = 0;  // 0: exact
  double scale = 0;
  bool strided = true;    // whether strided views are tried too
  bool in_place = false;  // `out` begins as the first input
};

// Reports what exceeds its bound, what is not written, and what differs from one run to the next.
void CheckKernel(const KernelCase& c);

}  // namespace mnemo::testing
