#include "tests/core/gradient_check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "src/core/backend.h"

namespace mnemo::testing {
namespace {

using ScalarFunction = std::function<double(std::span<const Tensor>)>;

double Dot(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.ToDoubles(), y = b.ToDoubles();
  long double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += static_cast<long double>(x[i]) * y[i];
  return static_cast<double>(sum);
}

std::vector<Var> Leaves(Tape& tape, std::span<const Tensor> values) {
  std::vector<Var> leaves;
  for (const Tensor& value : values) leaves.push_back(tape.Leaf(value));
  return leaves;
}

std::vector<Tensor> RandomLike(std::span<const Var> vars, uint64_t seed) {
  std::vector<Tensor> result;
  for (const Var& var : vars) result.push_back(Uniform(var.shape(), seed++).To(var.dtype()));
  return result;
}

// Worst |gradient - difference quotient of f| over the elements of all inputs, relative to the
// largest component of the gradient.
double DifferenceError(const ScalarFunction& f, std::span<const Tensor> inputs,
                       std::span<const Tensor> gradients, const DifferenceOptions& options) {
  double worst = 0, scale = 1;
  std::vector<Tensor> moved(inputs.begin(), inputs.end());
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::vector<double> values = inputs[i].ToDoubles();
    std::vector<double> gradient(values.size(), 0.0);
    if (gradients[i].defined()) gradient = gradients[i].ToDoubles();
    const int64_t count = static_cast<int64_t>(values.size());
    const int64_t looks = options.samples > 0 ? std::min(options.samples, count) : count;
    for (int64_t k = 0; k < looks; ++k) {
      const int64_t element = looks == count ? k : (2 * k + 1) * count / (2 * looks);
      const auto at = [&](double distance) {
        std::vector<double> changed = values;
        changed[element] += distance;
        moved[i] = Tensor::FromHost(changed, inputs[i].shape(), DType::kF64);
        return f(moved);
      };
      const double h = options.step;
      const double slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      scale = std::max({scale, std::fabs(slope), std::fabs(gradient[element])});
      const double error = std::fabs(slope - gradient[element]);
      worst =
          std::isfinite(error) ? std::max(worst, error) : std::numeric_limits<double>::infinity();
    }
    moved[i] = inputs[i];
  }
  return worst / scale;
}

}  // namespace

Tensor Uniform(const Shape& shape, uint64_t seed, double low, double high) {
  std::mt19937_64 generator(seed * 0x9E3779B97F4A7C15ull + 1);
  std::vector<double> values(ElementCount(shape));
  for (double& value : values) {
    value = low + (high - low) * std::ldexp(static_cast<double>(generator() >> 11), -53);
  }
  return Tensor::FromHost(values, shape, DType::kF64);
}

Tensor Strided(const Tensor& x) {
  Shape shape(x.shape().rbegin(), x.shape().rend());
  for (int64_t& size : shape) size += 2;
  Tensor view = Tensor::Full(shape, std::nan(""), x.dtype());
  std::vector<int> order;
  for (int axis = x.rank() - 1; axis >= 0; --axis) order.push_back(axis);
  view = view.Permute(order);
  for (int axis = 0; axis < x.rank(); ++axis) view = view.Slice(axis, 1, 1 + x.dim(axis));
  Backend::For(x.device()).Copy(x, view);
  return view;
}

double RelativeError(const Tensor& a, const Tensor& b) {
  if (!a.defined() && !b.defined()) return 0;
  if (a.defined() && b.defined() && a.shape() != b.shape()) {
    return std::numeric_limits<double>::infinity();
  }
  const std::vector<double> zeros((a.defined() ? a : b).elements(), 0.0);
  const std::vector<double> x = a.defined() ? a.ToDoubles() : zeros;
  const std::vector<double> y = b.defined() ? b.ToDoubles() : zeros;
  double worst = 0, scale = 1;
  for (size_t i = 0; i < x.size(); ++i) {
    const double error = std::fabs(x[i] - y[i]);
    if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, error);
    scale = std::max(scale, std::fabs(y[i]));
  }
  return worst / scale;
}

double FirstDerivativeError(const Function& f, std::span<const Tensor> inputs,
                            const DifferenceOptions& options) {
  Tape tape;
  const std::vector<Var> leaves = Leaves(tape, inputs);
  const std::vector<Var> outputs = f(leaves);
  const std::vector<Tensor> weights = RandomLike(outputs, options.seed);
  const auto loss = [&](std::span<const Tensor> x) {
    const std::vector<Var> y = f(std::vector<Var>(x.begin(), x.end()));
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += Dot(y[i].value(), weights[i]);
    return sum;
  };
  return DifferenceError(loss, inputs, tape.Gradient(outputs, weights, leaves), options);
}

double SecondDerivativeError(const Function& f, std::span<const Tensor> inputs,
                             const DifferenceOptions& options) {
  Tape tape;
  std::vector<Var> leaves = Leaves(tape, inputs);
  const std::vector<Var> outputs = f(leaves);
  const std::vector<Tensor> weights = RandomLike(outputs, options.seed);
  const std::vector<Var> weight_leaves = Leaves(tape, weights);
  std::vector<Var> gradients = tape.GradientRecorded(outputs, weight_leaves, leaves);
  std::vector<Tensor> directions;
  for (size_t i = 0; i < inputs.size(); ++i) {
    directions.push_back(Uniform(inputs[i].shape(), options.seed + 100 + i));
  }
  std::vector<Tensor> all(inputs.begin(), inputs.end());
  all.insert(all.end(), weights.begin(), weights.end());
  leaves.insert(leaves.end(), weight_leaves.begin(), weight_leaves.end());
  const auto slope = [&](std::span<const Tensor> x) {
    Tape local;
    const std::vector<Var> at = Leaves(local, x.subspan(0, inputs.size()));
    const std::vector<Tensor> g = local.Gradient(f(at), x.subspan(inputs.size()), at);
    double sum = 0;
    for (size_t i = 0; i < g.size(); ++i) {
      if (g[i].defined()) sum += Dot(g[i], directions[i]);
    }
    return sum;
  };
  return DifferenceError(slope, all, tape.Gradient(gradients, directions, leaves), options);
}

Evaluation Evaluate(const Function& f, std::span<const Tensor> inputs, uint64_t seed) {
  Tape tape;
  const std::vector<Var> leaves = Leaves(tape, inputs);
  const std::vector<Var> outputs = f(leaves);
  Evaluation result;
  for (const Var& output : outputs) result.outputs.push_back(output.value());
  result.gradients = tape.Gradient(outputs, RandomLike(outputs, seed), leaves);
  return result;
}

double SingleError(const Function& f, std::span<const Tensor> inputs, uint64_t seed) {
  std::vector<Tensor> single, rounded;
  for (const Tensor& x : inputs) {
    single.push_back(x.To(DType::kF32));
    rounded.push_back(single.back().To(DType::kF64));
  }
  const Evaluation a = Evaluate(f, single, seed), b = Evaluate(f, rounded, seed);
  double worst = 0;
  for (size_t i = 0; i < a.outputs.size(); ++i) {
    worst = std::max(worst, RelativeError(a.outputs[i], b.outputs[i]));
  }
  for (size_t i = 0; i < a.gradients.size(); ++i) {
    worst = std::max(worst, RelativeError(a.gradients[i], b.gradients[i]));
  }
  return worst;
}

}  // namespace mnemo::testing
