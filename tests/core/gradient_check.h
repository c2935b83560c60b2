// Derivatives of functions of Vars against central differences in f64, and f32 against f64.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "src/core/tape.h"

namespace mnemo::testing {

using Function = std::function<std::vector<Var>(std::span<const Var>)>;

// f64 values, uniform in [low, high), a function of seed and shape alone.
Tensor Uniform(const Shape& shape, uint64_t seed, double low = -1, double high = 1);

// The same values behind odd strides: a slice of a larger tensor with its dims reversed.
Tensor Strided(const Tensor& x);

// max |a - b| / max(1, max |b|); an undefined tensor counts as zeros. Infinite where shapes differ.
double RelativeError(const Tensor& a, const Tensor& b);

struct DifferenceOptions {
  uint64_t seed = 1;    // of the random gradients of the outputs
  double step = 1e-3;   // central differences of fourth order: truncation ~ step^4
  int64_t samples = 0;  // elements looked at in each input; 0: all
};

// Worst relative error of Tape::Gradient of <r, f(inputs)>, r random, over all inputs, where the
// scale is max(1, the largest component of the gradient). Inputs are f64.
double FirstDerivativeError(const Function& f, std::span<const Tensor> inputs,
                            const DifferenceOptions& options = {});

// The same for the gradient of <r', GradientRecorded of f>, with respect to the inputs and to the
// gradients of the outputs, against differences of Tape::Gradient.
double SecondDerivativeError(const Function& f, std::span<const Tensor> inputs,
                             const DifferenceOptions& options = {});

// Worst relative error of values and first derivatives in f32 against f64 at the same (rounded)
// inputs.
double SingleError(const Function& f, std::span<const Tensor> inputs, uint64_t seed = 1);

// Outputs and gradients of <r, f> at `inputs`, r = Uniform(shape, seed + i) in the outputs' dtype.
struct Evaluation {
  std::vector<Tensor> outputs, gradients;
};
Evaluation Evaluate(const Function& f, std::span<const Tensor> inputs, uint64_t seed = 1);

}  // namespace mnemo::testing
