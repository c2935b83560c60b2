// Attention against plain loops: windows, documents, persistent keys, several runs, many blocks.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "src/core/fused/attention.h"
#include "tests/core/gradient_check.h"

namespace mnemo::testing {
namespace {

struct Case {
  std::string name;
  int64_t batch = 2, heads = 2, queries = 5, features = 4;
  int64_t persistent = 0;
  std::vector<std::pair<int64_t, int64_t>> runs = {};  // first position, length
  AttentionMask mask = {};
};

// q, persistent k and v if any, then k and v of each run.
std::vector<Tensor> MakeInputs(const Case& c) {
  std::vector<Tensor> inputs = {Uniform({c.batch, c.heads, c.queries, c.features}, 1, -2, 2)};
  const auto add = [&](int64_t batch, int64_t rows) {
    for (int i = 0; i < 2; ++i) {
      inputs.push_back(Uniform({batch, c.heads, rows, c.features}, 2 + inputs.size(), -2, 2));
    }
  };
  if (c.persistent > 0) add(1, c.persistent);
  for (const auto& run : c.runs) add(c.batch, run.second);
  return inputs;
}

Function AttentionOf(const Case& c) {
  return [c](std::span<const Var> x) -> std::vector<Var> {
    const size_t first = c.persistent > 0 ? 3 : 1;
    std::vector<KeyRun> runs;
    for (size_t i = 0; i < c.runs.size(); ++i) {
      runs.push_back({x[first + 2 * i], x[first + 2 * i + 1], c.runs[i].first});
    }
    const Var none;
    return {Attention(x[0], c.persistent > 0 ? x[1] : none, c.persistent > 0 ? x[2] : none, runs,
                      c.mask)};
  };
}

AttentionMask Mask(int64_t first_position, int64_t window,
                   const std::vector<int64_t>& starts = {}) {
  return {first_position, window, starts};
}

std::vector<double> Expected(const Case& c, const std::vector<Tensor>& inputs) {
  std::vector<std::vector<double>> values;
  for (const Tensor& x : inputs) values.push_back(x.ToDoubles());
  std::vector<double> out;
  for (int64_t b = 0; b < c.batch; ++b) {
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t t = 0; t < c.queries; ++t) {
        const int64_t position = c.mask.first_position + t;
        const double* q = &values[0][((b * c.heads + h) * c.queries + t) * c.features];
        double sum = 0;
        std::vector<double> read(c.features, 0.0);
        const auto see = [&](size_t input, int64_t row_of_all) {
          const double* k = &values[input][row_of_all * c.features];
          const double* v = &values[input + 1][row_of_all * c.features];
          double score = 0;
          for (int64_t i = 0; i < c.features; ++i) score += q[i] * k[i];
          const double weight = std::exp(score / std::sqrt(static_cast<double>(c.features)));
          sum += weight;
          for (int64_t i = 0; i < c.features; ++i) read[i] += weight * v[i];
        };
        for (int64_t j = 0; j < c.persistent; ++j) see(1, h * c.persistent + j);
        size_t input = c.persistent > 0 ? 3 : 1;
        for (const auto& [first, length] : c.runs) {
          for (int64_t j = 0; j < length; ++j) {
            const int64_t key = first + j;
            if (key > position || (c.mask.window > 0 && key <= position - c.mask.window)) continue;
            if (!c.mask.starts.empty() && key < c.mask.starts[b * c.queries + t]) continue;
            see(input, (b * c.heads + h) * length + j);
          }
          input += 2;
        }
        for (const double value : read) out.push_back(value / sum);
      }
    }
  }
  return out;
}

std::vector<Case> Cases() {
  std::vector<int64_t> starts;  // documents begin at different places in the two sequences
  for (int64_t t = 0; t < 5; ++t) starts.push_back(t < 2 ? 8 : 12);
  for (int64_t t = 0; t < 5; ++t) starts.push_back(t < 4 ? 0 : 14);
  std::vector<int64_t> long_starts;
  for (int64_t t = 0; t < 700; ++t) long_starts.push_back(t < 300 ? 0 : 300);
  return {
      {.name = "full", .runs = {{0, 5}}},
      {.name = "one query", .queries = 1, .runs = {{0, 1}}},
      {.name = "one query far on", .queries = 1, .runs = {{0, 9}}, .mask = Mask(8, 0)},
      {.name = "window", .runs = {{0, 5}}, .mask = Mask(0, 2)},
      {.name = "window 1", .runs = {{0, 5}}, .mask = Mask(0, 1)},
      {.name = "window with carried keys", .runs = {{6, 4}, {10, 5}}, .mask = Mask(10, 3)},
      {.name = "documents", .runs = {{7, 3}, {10, 5}}, .mask = Mask(10, 4, starts)},
      {.name = "persistent and two runs at the same positions",
       .persistent = 3,
       .runs = {{20, 5}, {20, 5}},
       .mask = Mask(20, 0)},
      {.name = "persistent only", .persistent = 3},
      {.name = "two blocks", .batch = 1, .heads = 1, .queries = 131, .runs = {{0, 131}}},
      {.name = "many blocks, window below a block",
       .batch = 1,
       .heads = 1,
       .queries = 700,
       .persistent = 2,
       .runs = {{-30, 30}, {0, 700}},
       .mask = Mask(0, 50)},
      {.name = "many blocks, documents",
       .batch = 1,
       .heads = 1,
       .queries = 700,
       .runs = {{0, 700}},
       .mask = Mask(0, 200, long_starts)},
  };
}

TEST(Attention, MatchesPlainLoops) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.name);
    const std::vector<Tensor> inputs = MakeInputs(c);
    const Tensor y = AttentionOf(c)(std::vector<Var>(inputs.begin(), inputs.end()))[0].value();
    ASSERT_EQ(y.shape(), inputs[0].shape());
    // A weighted mean of up to 700 values, weights from exp.
    EXPECT_LE(RelativeError(y, Tensor::FromHost(Expected(c, inputs), y.shape(), DType::kF64)),
              1000 * std::numeric_limits<double>::epsilon());
  }
}

TEST(Attention, Derivatives) {
  for (const Case& c : Cases()) {
    SCOPED_TRACE(c.name);
    const std::vector<Tensor> inputs = MakeInputs(c);
    const bool small = c.queries <= 5;
    const DifferenceOptions options{.samples = small ? 0 : 6};
    EXPECT_LT(FirstDerivativeError(AttentionOf(c), inputs, options), 1e-8);
    if (small) {
      EXPECT_LT(SecondDerivativeError(AttentionOf(c), inputs), 1e-8);
    }
    EXPECT_LT(SingleError(AttentionOf(c), inputs), 1000 * std::numeric_limits<float>::epsilon());
  }
}

TEST(Attention, RefusesWhatDoesNotFit) {
  const Var q(Uniform({1, 1, 3, 4}, 1)), k(Uniform({1, 1, 3, 4}, 2)), none;
  EXPECT_THROW(Attention(q, none, none, {{k, Uniform({1, 1, 2, 4}, 3), 0}}, {}), TensorError);
  EXPECT_THROW(Attention(q, none, none, {{k, k, 0}}, Mask(0, 0, {0})), TensorError);
}

}  // namespace
}  // namespace mnemo::testing
