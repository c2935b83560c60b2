#include "tests/core/cuda/fused_compare.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "src/core/fused_op.h"
#include "src/core/random.h"
#include "tests/core/cuda/gpu_case.h"

namespace mnemo {
namespace {

// An element's error over the tensor's largest, over the tensor's own relative error, L2: rounding
// leaves a few where one element is wrong, more.
constexpr double kElement = 6;

// The largest error of an element over the largest element.
double LargestError(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, largest = 1e-30;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    const double apart = std::abs(got[i] - want[i]);
    error = std::isfinite(apart) ? std::max(error, apart) : INFINITY;
    largest = std::max(largest, std::abs(want[i]));
  }
  return error / largest;
}

void ExpectClose(const std::vector<double>& got, const std::vector<double>& want, double tolerance,
                 const std::string& what) {
  EXPECT_LE(RelativeError(got, want), tolerance) << what;
  EXPECT_LE(LargestError(got, want), kElement * tolerance) << what << ", one element";
}

}  // namespace

Values Normal(const Shape& shape, const char* name, DType dtype, double scale, double shift) {
  const RandomStream random(7, 0, name);
  std::vector<double> values(ElementCount(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = shift + scale * random.Normal(i);
  // Through the dtype and back.
  return {shape, dtype, Tensor::FromHost(values, shape, dtype).To(DType::kF64).ToDoubles()};
}

Run RunOn(const Function& f, std::span<const Values> inputs, bool gpu) {
  Tape tape;
  std::vector<Var> leaves;
  for (const Values& x : inputs) {
    const Tensor wide = Tensor::FromHost(x.values, x.shape, DType::kF64);
    leaves.push_back(tape.Leaf(gpu ? wide.To(x.dtype).To(kGpu) : wide));
  }
  // What is read before it is written, or never written, shows.
  if (gpu) testing::PoisonFreeMemory();
  const std::vector<Var> outputs = f(leaves);
  std::vector<Tensor> seeds;
  Run run;
  for (const Var& y : outputs) {
    const Values seed = Normal(y.shape(), "seed", DType::kBF16);
    Tensor tensor = Tensor::FromHost(seed.values, y.shape(), DType::kF64);
    seeds.push_back(gpu ? tensor.To(y.dtype()).To(kGpu) : tensor);
    run.outputs.push_back(y.value().ToDoubles());
  }
  if (gpu) testing::PoisonFreeMemory();
  for (const Tensor& gradient : tape.Gradient(outputs, seeds, leaves)) {
    run.gradients.push_back(gradient.defined() ? gradient.ToDoubles() : std::vector<double>());
  }
  return run;
}

double RelativeError(const std::vector<double>& got, const std::vector<double>& want) {
  EXPECT_EQ(got.size(), want.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(error / std::max(norm, 1e-30));
}

void CompareFused(const char* op, const Function& f, const std::vector<Values>& inputs,
                  double tolerance, double gradient_tolerance, double f32_gradient_tolerance) {
  const FusedCount before = FusedCounts()[op];
  const Run gpu = RunOn(f, inputs, true);
  const FusedCount after = FusedCounts()[op];
  EXPECT_GT(after.kernel, before.kernel) << op << " was not computed by its kernel";
  EXPECT_EQ(after.fallback, before.fallback);
  const Run cpu = RunOn(f, inputs, false);
  for (size_t i = 0; i < cpu.outputs.size(); ++i) {
    ExpectClose(gpu.outputs[i], cpu.outputs[i], tolerance, fmt::format("{} output {}", op, i));
  }
  for (size_t i = 0; i < cpu.gradients.size(); ++i) {
    if (cpu.gradients[i].empty()) continue;
    const bool own = f32_gradient_tolerance > 0 && inputs[i].dtype == DType::kF32;
    ExpectClose(gpu.gradients[i], cpu.gradients[i],
                own ? f32_gradient_tolerance : gradient_tolerance,
                fmt::format("{} gradient of input {}", op, i));
  }
  if (!GetFusedPolicy().deterministic) return;
  // Once more: the same bits.
  const Run again = RunOn(f, inputs, true);
  EXPECT_EQ(again.outputs, gpu.outputs) << op;
  EXPECT_EQ(again.gradients, gpu.gradients) << op;
}

}  // namespace mnemo
