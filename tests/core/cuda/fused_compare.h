// A fused op's kernel on a GPU against its composed definition in f64 on the CPU, values and
// gradients. Inputs are rounded to what the kernel reads first.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "src/core/tape.h"

namespace mnemo {

inline constexpr Device kGpu{DeviceType::kCuda, 0};

// An input, or the seed of an output's gradient.
struct Values {
  Shape shape;
  DType dtype = DType::kBF16;  // on the GPU
  std::vector<double> values;  // representable in it
};

// Normal values, the same for the same shape and name.
Values Normal(const Shape& shape, const char* name, DType dtype = DType::kBF16, double scale = 1,
              double shift = 0);

using Function = std::function<std::vector<Var>(std::span<const Var>)>;

struct Run {
  std::vector<std::vector<double>> outputs, gradients;
};

// f and the gradients of sum <output, seed>; seeds are a pure function of the output's shape.
Run RunOn(const Function& f, std::span<const Values> inputs, bool gpu);

double RelativeError(const std::vector<double>& got, const std::vector<double>& want);

// Runs f on both, checks that `op` was computed by its kernel, and that each output and gradient is
// within the tolerances, in relative L2 norm, and no element off by more than six times as much of
// the largest; gradients of f32 inputs within one of their own, if there is one. Free memory of the
// GPU is filled with NaN before either pass. A second run gives the same bits, unless the policy
// lets sums have any order.
void CompareFused(const char* op, const Function& f, const std::vector<Values>& inputs,
                  double tolerance, double gradient_tolerance, double f32_gradient_tolerance = 0);

}  // namespace mnemo
