// Running the same function on the CPU in f64 and on a GPU in any dtype, and comparing.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "src/core/backend.h"
#include "tests/core/cuda/poison.h"
#include "tests/core/gradient_check.h"

namespace mnemo::testing {

// Rounding to nearest, relative: half a unit in the last place.
double UnitRoundoff(DType dtype);

// The same values on a device, contiguous or behind odd strides with NaN between them.
Tensor Place(const Tensor& x, DType dtype, Device device, bool strided = false);

// Outputs and gradients of sum_i <r_i, f_i> at `inputs` (f64, on the CPU) in `dtype` on `device`;
// r is random, representable in bf16 and a function of the outputs' shapes alone. Inputs named in
// `wide` are f32 where dtype is bf16.
struct Setting {
  DType dtype = DType::kF64;
  Device device = {};
  bool strided = false;
  std::vector<size_t> wide = {};
};
Evaluation EvaluateIn(const Setting& setting, const Function& f, std::span<const Tensor> inputs);

// `inputs` rounded to what `setting` will read, back in f64.
std::vector<Tensor> RoundedFor(const Setting& setting, std::span<const Tensor> inputs);

// How far off an element may be: relative * |expected| + absolute * (largest |expected|, at least
// `scale`).
struct Bound {
  double relative = 0, absolute = 0;
  double scale = 0;
};
// Reports the worst element of a tensor that exceeds its bound (gtest). Where `a` is undefined, b
// is undefined or zeros, and the other way round.
void ExpectClose(const Tensor& a, const Tensor& b, const Bound& bound, const std::string& what);

}  // namespace mnemo::testing
