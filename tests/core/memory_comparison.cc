#include "tests/core/memory_comparison.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "src/core/ops.h"
#include "tests/core/naive_memory.h"
#include "tests/reference/reference_memory.h"

namespace mnemo::testing {
namespace {

namespace ref = mnemo::reference;

// The matrix of x [.., rows, columns] at these leading indices.
ref::Matrix MatrixAt(const Var& x, std::initializer_list<int64_t> lead) {
  Tensor part = x.value();
  for (const int64_t i : lead) {
    part = part.Slice(0, i, i + 1);
    part = part.Reshape(Shape(part.shape().begin() + 1, part.shape().end()));
  }
  ref::Matrix matrix(static_cast<int>(part.dim(0)), static_cast<int>(part.dim(1)));
  matrix.data = part.ToDoubles();
  return matrix;
}

ref::MemoryWeights WeightsAt(const MemoryWeights& weights, std::initializer_list<int64_t> lead) {
  ref::MemoryWeights result;
  for (const Var& w : weights.w) result.w.push_back(MatrixAt(w, lead));
  for (const Var& c : weights.c) {
    ref::Matrix column = MatrixAt(c, lead);
    std::swap(column.rows, column.cols);
    result.c.push_back(column);
  }
  return result;
}

ref::MemoryRule Translate(const MemoryRule& rule) {
  ref::MemoryRule result;
  result.chunk = static_cast<int>(rule.chunk);
  result.activation =
      rule.activation == MemoryActivation::kSilu ? ref::Activation::kSilu : ref::Activation::kGelu;
  result.residual = rule.residual;
  result.layer_norm = rule.layer_norm;
  result.momentum = rule.momentum;
  result.forgetting = rule.forgetting == Forgetting::kNever         ? ref::Forgetting::kOff
                      : rule.forgetting == Forgetting::kTowardsZero ? ref::Forgetting::kZero
                                                                    : ref::Forgetting::kInitial;
  result.clamp = rule.clamp;
  result.epsilon = rule.epsilon;
  return result;
}

ref::MemoryOutput RunReference(const MemoryProblem& problem, const MemoryArguments& arguments,
                               int64_t b, int64_t h, int64_t tokens) {
  const MemoryRule& rule = problem.rule;
  const MemoryParameters& parameters = arguments.parameters;
  ref::MemoryHead head{WeightsAt(parameters.initial, {h}), {}, {}, {}};
  if (rule.layer_norm) {
    head.ln_gain = MatrixAt(parameters.norm_weight, {h}).data;
    head.ln_bias = MatrixAt(parameters.norm_bias, {h}).data;
  }
  if (rule.row_scale) head.row_scale = parameters.row_scale.value().ToDoubles();
  const auto rows = [&](const Var& x) {
    return x.defined() ? ref::Rows(MatrixAt(x, {b, h}), 0, static_cast<int>(tokens))
                       : ref::Matrix();
  };
  const MemoryTokens& t = arguments.tokens;
  const ref::MemoryInputs inputs{rows(t.q),          rows(t.k),        rows(t.v),
                                 rows(t.theta).data, rows(t.eta).data, rows(t.alpha).data};
  ref::MemoryState start{WeightsAt(arguments.state.w, {b, h}),
                         WeightsAt(arguments.state.s, {b, h})};
  if (!rule.momentum) start.s = ref::FirstState(head).s;
  std::vector<bool> resets;
  if (problem.resets.defined()) {
    const std::vector<double> flags = problem.resets.ToDoubles();
    const int64_t chunks = problem.resets.dim(1);
    for (int64_t c = 0; c < chunks; ++c) resets.push_back(flags[b * chunks + c] > 0);
  }
  return ref::RunMemory(Translate(rule), head, inputs, &start, resets);
}

double Difference(const ref::Vector& a, const ref::Vector& b) {
  if (a.size() != b.size()) return INFINITY;
  const Shape shape{static_cast<int64_t>(a.size())};
  return RelativeError(Tensor::FromHost(a, shape, DType::kF64),
                       Tensor::FromHost(b, shape, DType::kF64));
}

double Difference(const ref::MemoryWeights& a, const ref::MemoryWeights& b) {
  double worst = 0;
  for (size_t i = 0; i < a.w.size(); ++i) {
    worst = std::max(worst, Difference(a.w[i].data, b.w[i].data));
  }
  for (size_t i = 0; i < a.c.size(); ++i) {
    worst = std::max(worst, Difference(a.c[i].data, b.c[i].data));
  }
  return worst;
}

}  // namespace

double CompareWithReference(const MemoryProblem& problem) {
  const MemoryRule& rule = problem.rule;
  const std::vector<Var> inputs(problem.inputs.begin(), problem.inputs.end());
  const MemoryArguments arguments = Unpack(rule, inputs);
  const MemoryScanResult result =
      MemoryScan(rule, arguments.parameters, arguments.tokens, arguments.state, problem.resets);
  const int64_t closed = problem.tokens / rule.chunk * rule.chunk;
  double worst = 0;
  int hits = 0;
  for (int64_t b = 0; b < problem.batch; ++b) {
    for (int64_t h = 0; h < problem.heads; ++h) {
      const ref::MemoryOutput all = RunReference(problem, arguments, b, h, problem.tokens);
      worst = std::max(worst, Difference(MatrixAt(result.y, {b, h}).data, all.y.data));
      hits += all.clamp_hits;
      if (closed != problem.tokens && problem.resets.defined()) continue;  // may be reset since
      const ref::MemoryOutput last = RunReference(problem, arguments, b, h, closed);
      worst = std::max(worst, Difference(WeightsAt(result.state.w, {b, h}), last.last.w));
      if (!rule.momentum) continue;
      worst = std::max(worst, Difference(WeightsAt(result.state.s, {b, h}), last.last.s));
    }
  }
  EXPECT_LT(worst, kExact) << Describe(rule);
  if (rule.clamp > 0) {
    EXPECT_EQ(result.clamp_hits.Item(), hits) << Describe(rule);
  }
  return worst;
}

double CompareWithNaive(const MemoryProblem& problem) {
  const MemoryRule& rule = problem.rule;
  const Evaluation chunked = Evaluate(ScanFunction(problem), problem.inputs);
  Tape tape;
  std::vector<Var> leaves;
  for (const Tensor& x : problem.inputs) leaves.push_back(tape.Leaf(x));
  const MemoryArguments arguments = Unpack(rule, leaves);
  const NaiveMemoryResult naive = NaiveMemory(tape, rule, arguments.parameters, arguments.tokens,
                                              arguments.state, problem.resets);
  const std::vector<Var> outputs = Results(rule, naive.y, naive.state);
  std::vector<Tensor> weights;
  for (const Var& output : outputs) weights.push_back(Uniform(output.shape(), 1 + weights.size()));
  const std::vector<Tensor> gradients = tape.Gradient(outputs, weights, leaves);
  double worst = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const double error = RelativeError(chunked.outputs[i], outputs[i].value());
    EXPECT_LT(error, kExact) << Describe(rule) << ", output " << i;
    worst = std::max(worst, error);
  }
  for (size_t i = 0; i < gradients.size(); ++i) {
    const double error = RelativeError(chunked.gradients[i], gradients[i]);
    EXPECT_LT(error, kExact) << Describe(rule) << ", gradient of " << problem.names[i];
    worst = std::max(worst, error);
  }
  return worst;
}

}  // namespace mnemo::testing
