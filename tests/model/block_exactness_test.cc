// The blocks, as whole models in f64: against the plain references, causality, slices, documents,
// micro-batches, rematerialisation and gradients.
#include <gtest/gtest.h>

#include <cmath>

#include "src/core/random.h"
#include "src/model/sequence_runner.h"
#include "tests/model/tiny_model.h"

namespace mnemo::testing {
namespace {

// f64 sums of a few thousand terms of order one agree to about 1e-12; what is looked for are wrong
// formulas.
constexpr double kTolerance = 1e-10;

void ExpectSameLosses(const StepResult& a, const StepResult& b, double tolerance) {
  ASSERT_EQ(a.losses.size(), b.losses.size());
  for (size_t i = 0; i < a.losses.size(); ++i) {
    ASSERT_EQ(a.losses[i].size(), b.losses[i].size());
    for (size_t t = 0; t < a.losses[i].size(); ++t) {
      ASSERT_LE(std::abs(a.losses[i][t] - b.losses[i][t]), tolerance)
          << "sequence " << i << " token " << t;
    }
  }
}

void ExpectSameGradients(const StepResult& a, const StepResult& b, double tolerance) {
  for (size_t i = 0; i < a.gradients.size(); ++i) {
    EXPECT_LE(RelativeError(a.gradients[i], b.gradients[i]), tolerance) << a.gradients.info(i).name;
  }
}

class BlockExactness : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { model_ = AllTinyModels()[GetParam()]; }
  StepResult Run(const std::vector<std::vector<int>>& tokens, const StepOptions& options) {
    return RunStep(model_.spec, model_.parameters, tokens, options);
  }
  TinyModel model_;
};

TEST_P(BlockExactness, MatchesThePlainReference) {
  const reference::Model plain = ToReference(model_);
  for (const int64_t length : {1, 3, 16, 29}) {
    const auto tokens = RandomTokens(model_.spec, 1, length);
    const StepResult ours = Run(tokens, {.slices = {length}, .gradients = false});
    const std::vector<int> inputs(tokens[0].begin(), tokens[0].end() - 1);
    const std::vector<int> targets(tokens[0].begin() + 1, tokens[0].end());
    const reference::Vector expected = reference::TokenLosses(plain, inputs, targets);
    for (int64_t t = 0; t < length; ++t) {
      ASSERT_NEAR(ours.losses[0][t], expected[t], kTolerance) << "token " << t << " of " << length;
    }
  }
}

TEST_P(BlockExactness, DocumentsMatchThePlainReference) {
  const int64_t step = model_.spec.alignment(), length = 4 * step + 3;
  const std::vector<int64_t> starts = {step, 3 * step};
  const auto tokens = RandomTokens(model_.spec, 1, length);
  const StepResult ours = Run(tokens, {.slices = {length}, .starts = starts, .gradients = false});
  const std::vector<int> inputs(tokens[0].begin(), tokens[0].end() - 1);
  const std::vector<int> targets(tokens[0].begin() + 1, tokens[0].end());
  const reference::Vector expected = reference::TokenLosses(
      ToReference(model_), inputs, targets, std::vector<int>(starts.begin(), starts.end()));
  for (int64_t t = 0; t < length; ++t) {
    ASSERT_NEAR(ours.losses[0][t], expected[t], kTolerance) << "token " << t;
  }
}

TEST_P(BlockExactness, LaterTokensDoNotChangeEarlierLogits) {
  const int64_t length = 24, vocabulary = model_.spec.vocabulary;
  const std::vector<int> tokens = RandomTokens(model_.spec, 1, length)[0];
  const auto logits = [&](std::span<const int> sequence) {
    const std::vector<int32_t> ids(sequence.begin(), sequence.begin() + length);
    SequenceRunner runner(model_.spec, model_.parameters, 1);
    const Tensor rows = runner.Run(Tensor::FromHost(std::span<const int32_t>(ids), {length}));
    return runner.Logits(rows).ToDoubles();
  };
  const std::vector<double> before = logits(tokens);
  for (const int64_t changed : {0, 1, 5, 8, 15, 23}) {
    std::vector<int> other = tokens;
    other[changed] = (other[changed] + 1) % static_cast<int>(vocabulary);
    const std::vector<double> after = logits(other);
    for (int64_t i = 0; i < changed * vocabulary; ++i) {
      ASSERT_EQ(before[i], after[i]) << "changed " << changed << ", seen " << i / vocabulary;
    }
    EXPECT_NE(before[changed * vocabulary], after[changed * vocabulary]);
  }
}

TEST_P(BlockExactness, SlicesDoNotMatter) {
  const int64_t step = model_.spec.alignment() == 1 ? 4 : model_.spec.alignment();
  const int64_t length = 4 * step;
  const auto tokens = RandomTokens(model_.spec, 2, length);
  const StepResult whole = Run(tokens, {.batch = 2, .slices = {length}});
  const std::vector<std::vector<int64_t>> cuts = {
      {step, step, step, step}, {3 * step, step}, {2 * step, 2 * step}};
  for (const std::vector<int64_t>& slices : cuts) {
    const StepResult cut = Run(tokens, {.batch = 2, .slices = slices});
    ExpectSameLosses(whole, cut, kTolerance);
    ExpectSameGradients(whole, cut, kTolerance);
  }
  // With documents that begin at, and inside, slices.
  const std::vector<int64_t> starts = {step, 3 * step};
  const StepResult one = Run(tokens, {.batch = 2, .slices = {length}, .starts = starts});
  const StepResult two =
      Run(tokens, {.batch = 2, .slices = {2 * step, 2 * step}, .starts = starts});
  ExpectSameLosses(one, two, kTolerance);
  ExpectSameGradients(one, two, kTolerance);
}

TEST_P(BlockExactness, DocumentsAreSeparateSequences) {
  const int64_t step = model_.spec.alignment() == 1 ? 4 : model_.spec.alignment();
  const auto tokens = RandomTokens(model_.spec, 1, 3 * step);
  const StepResult packed = Run(tokens, {.slices = {3 * step}, .starts = {step}});
  const auto begin = tokens[0].begin();
  const std::vector<std::vector<int>> first = {{begin, begin + step + 1}};
  const std::vector<std::vector<int>> second = {{begin + step, tokens[0].end()}};
  const StepResult a = Run(first, {.slices = {step}});
  const StepResult b = Run(second, {.slices = {2 * step}});
  for (int64_t t = 0; t < 3 * step; ++t) {
    const double alone = t < step ? a.losses[0][t] : b.losses[0][t - step];
    ASSERT_NEAR(packed.losses[0][t], alone, kTolerance) << "token " << t;
  }
  // Gradients of means: 1/3 and 2/3 of the tokens.
  for (size_t i = 0; i < packed.gradients.size(); ++i) {
    std::vector<double> sum = a.gradients[i].ToDoubles();
    const std::vector<double> more = b.gradients[i].ToDoubles();
    for (size_t k = 0; k < sum.size(); ++k) sum[k] = sum[k] / 3 + more[k] * 2 / 3;
    const Tensor expected = Tensor::FromHost(sum, packed.gradients[i].shape(), DType::kF64);
    EXPECT_LE(RelativeError(expected, packed.gradients[i]), kTolerance)
        << packed.gradients.info(i).name;
  }
}

TEST_P(BlockExactness, MicroBatchesDoNotMatter) {
  const int64_t length = model_.spec.full_attention() ? 16 : 2 * model_.spec.alignment();
  const auto tokens = RandomTokens(model_.spec, 4, length);
  const StepResult four = Run(tokens, {.batch = 4, .slices = {length}});
  const StepResult two = Run(tokens, {.batch = 2, .slices = {length}});
  const StepResult one = Run(tokens, {.batch = 1, .slices = {length}});
  ExpectSameLosses(four, two, kTolerance);
  ExpectSameLosses(four, one, kTolerance);
  ExpectSameGradients(four, two, kTolerance);
  ExpectSameGradients(four, one, kTolerance);
}

TEST_P(BlockExactness, RematerializationIsBitwiseNeutral) {
  const int64_t step = model_.spec.alignment() == 1 ? 4 : model_.spec.alignment();
  const bool full = model_.spec.full_attention();
  const std::vector<int64_t> slices =
      full ? std::vector<int64_t>{3 * step} : std::vector<int64_t>{step, step, step};
  const auto tokens = RandomTokens(model_.spec, 2, 3 * step);
  StepOptions options{.batch = 1, .slices = slices, .starts = {step}};
  options.policy = Rematerialization::kKeepAll;
  const StepResult all = Run(tokens, options);
  for (const Rematerialization policy : {Rematerialization::kUnits, Rematerialization::kSlices}) {
    options.policy = policy;
    const StepResult again = Run(tokens, options);
    ExpectSameLosses(all, again, 0);
    ExpectSameGradients(all, again, 0);
  }
}

// Differences of the loss along a random direction of each parameter: fourth order, so that with
// h = 1e-3 truncation (h^4) and rounding (1e-16 / h) are both far below the tolerance.
TEST_P(BlockExactness, GradientsMatchFiniteDifferences) {
  const int64_t step = model_.spec.alignment() == 1 ? 4 : model_.spec.alignment();
  const bool full = model_.spec.full_attention();
  const StepOptions options{
      .slices = full ? std::vector<int64_t>{3 * step} : std::vector<int64_t>{2 * step, step},
      .starts = {step}};
  const auto tokens = RandomTokens(model_.spec, 1, 3 * step);
  const StepResult result = Run(tokens, options);
  StepOptions forward = options;
  forward.gradients = false;
  const double h = 1e-3, length = static_cast<double>(3 * step);
  for (size_t i = 0; i < model_.parameters.size(); ++i) {
    const std::string& name = model_.parameters.info(i).name;
    const RandomStream stream(7, 0, name);
    const std::vector<double> values = model_.parameters[i].ToDoubles();
    const std::vector<double> gradient = result.gradients[i].ToDoubles();
    const double scale = 1 / std::sqrt(static_cast<double>(values.size()));
    double expected = 0;
    for (size_t k = 0; k < values.size(); ++k) expected += scale * gradient[k] * stream.Normal(k);
    const auto loss_at = [&](double distance) {
      std::vector<double> moved = values;
      for (size_t k = 0; k < values.size(); ++k) moved[k] += distance * scale * stream.Normal(k);
      ParameterSet parameters(model_.parameters.infos(), model_.parameters.values());
      parameters.Set(i, Tensor::FromHost(moved, parameters[i].shape(), DType::kF64));
      return RunStep(model_.spec, parameters, tokens, forward).loss / length;
    };
    const double measured =
        (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
    EXPECT_NEAR(measured, expected, 1e-8 + 1e-6 * std::abs(expected)) << name;
    EXPECT_NE(expected, 0) << name << " is not used";
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, BlockExactness,
                         ::testing::Range(0, static_cast<int>(AllTinyModels().size())),
                         [](const auto& info) { return TestNameOf(info.param); });

}  // namespace
}  // namespace mnemo::testing
