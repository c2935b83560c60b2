#include "tests/core/cuda/gpu_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace mnemo::testing {
namespace {

DType TypeOf(const Setting& setting, size_t input) {
  const bool wide = std::count(setting.wide.begin(), setting.wide.end(), input) > 0;
  return wide && setting.dtype == DType::kBF16 ? DType::kF32 : setting.dtype;
}

}  // namespace

double UnitRoundoff(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return 0x1p-8;
    case DType::kF32:
      return 0x1p-24;
    default:
      return 0x1p-53;
  }
}

Tensor Place(const Tensor& x, DType dtype, Device device, bool strided) {
  const Tensor there = x.To(dtype).Contiguous().To(device);
  if (!strided) return there;
  Shape shape(x.shape().rbegin(), x.shape().rend());
  for (int64_t& size : shape) size += 2;
  Tensor view = Tensor::Full(shape, dtype == DType::kI32 ? -1 : NAN, dtype, device);
  std::vector<int> order;
  for (int axis = x.rank() - 1; axis >= 0; --axis) order.push_back(axis);
  view = view.Permute(order);
  for (int axis = 0; axis < x.rank(); ++axis) view = view.Slice(axis, 1, 1 + x.dim(axis));
  Backend::For(device).Copy(there, view);
  return view;
}

Evaluation EvaluateIn(const Setting& setting, const Function& f, std::span<const Tensor> inputs) {
  Tape tape;
  std::vector<Var> leaves;
  for (size_t i = 0; i < inputs.size(); ++i) {
    leaves.push_back(
        tape.Leaf(Place(inputs[i], TypeOf(setting, i), setting.device, setting.strided)));
  }
  if (setting.device.type == DeviceType::kCuda) PoisonFreeMemory();
  const std::vector<Var> outputs = f(leaves);
  Evaluation result;
  std::vector<Tensor> seeds;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Tensor r = Uniform(outputs[i].shape(), 100 + i).To(DType::kBF16);
    seeds.push_back(Place(r, outputs[i].dtype(), setting.device));
    result.outputs.push_back(outputs[i].value());
  }
  if (setting.device.type == DeviceType::kCuda) PoisonFreeMemory();
  result.gradients = tape.Gradient(outputs, seeds, leaves);
  return result;
}

std::vector<Tensor> RoundedFor(const Setting& setting, std::span<const Tensor> inputs) {
  std::vector<Tensor> rounded;
  for (size_t i = 0; i < inputs.size(); ++i) {
    rounded.push_back(inputs[i].To(TypeOf(setting, i)).To(DType::kF64));
  }
  return rounded;
}

void ExpectClose(const Tensor& a, const Tensor& b, const Bound& bound, const std::string& what) {
  if (!a.defined() && !b.defined()) return;
  const Shape& shape = (a.defined() ? a : b).shape();
  if (a.defined() && b.defined()) {
    ASSERT_EQ(a.shape(), b.shape()) << what;
  }
  const std::vector<double> zeros(ElementCount(shape), 0.0);
  const std::vector<double> x = a.defined() ? a.ToDoubles() : zeros;
  const std::vector<double> y = b.defined() ? b.ToDoubles() : zeros;
  double largest = bound.scale, worst = 0;
  for (const double value : y) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  size_t where = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]))) continue;
    const double allowed = bound.relative * std::abs(y[i]) + bound.absolute * largest;
    double share = std::abs(x[i] - y[i]) / allowed;
    if (!std::isfinite(share)) share = std::numeric_limits<double>::infinity();
    if (share <= worst) continue;
    worst = share;
    where = i;
  }
  EXPECT_LE(worst, 1) << what << " " << ToString(shape) << ", element " << where << ": "
                      << (x.empty() ? 0 : x[where]) << " for " << (y.empty() ? 0 : y[where])
                      << ", largest " << largest;
}

}  // namespace mnemo::testing
