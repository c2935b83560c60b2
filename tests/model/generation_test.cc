// A model run piece by piece gives what it gives when run at once: prompts of any length, then
// token by token; whole sequences, many slices, odd slices.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "src/core/random.h"
#include "src/model/generator.h"
#include "src/model/sequence_runner.h"
#include "tests/model/tiny_model.h"

namespace mnemo::testing {
namespace {

using ::testing::HasSubstr;

// f64 sums of a few thousand terms of order one agree to about 1e-12.
constexpr double kTolerance = 1e-10;

Tensor Ids(const std::vector<int>& tokens, int64_t begin, int64_t end) {
  const std::vector<int32_t> part(tokens.begin() + begin, tokens.begin() + end);
  return Tensor::FromHost(std::span<const int32_t>(part), {end - begin});
}

// Losses of a sequence [T + 1] of tokens cut at these lengths; the last repeats.
std::vector<double> LossesInPieces(const TinyModel& model, const std::vector<int>& tokens,
                                   const std::vector<int64_t>& lengths) {
  SequenceRunner runner(model.spec, model.parameters);
  std::vector<double> losses;
  const int64_t total = static_cast<int64_t>(tokens.size()) - 1;
  for (size_t i = 0; runner.position() < total; ++i) {
    const int64_t begin = runner.position();
    const int64_t end = std::min(total, begin + lengths[std::min(i, lengths.size() - 1)]);
    const Tensor rows = runner.Run(Ids(tokens, begin, end));
    for (const double loss : runner.Losses(rows, Ids(tokens, begin + 1, end + 1), 4).ToDoubles()) {
      losses.push_back(loss);
    }
  }
  return losses;
}

void ExpectNear(const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t t = 0; t < a.size(); ++t) ASSERT_NEAR(a[t], b[t], kTolerance) << "token " << t;
}

class Generation : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { model_ = AllTinyModels()[GetParam()]; }
  // The training forward: one slice, through the runner of units.
  std::vector<double> TrainingLosses(const std::vector<int>& tokens) {
    const int64_t length = static_cast<int64_t>(tokens.size()) - 1;
    return RunStep(model_.spec, model_.parameters, {tokens},
                   {.slices = {length}, .gradients = false})
        .losses[0];
  }
  TinyModel model_;
};

TEST_P(Generation, PiecesOfAnyLengthGiveTheTrainingForwardsLosses) {
  SCOPED_TRACE(model_.name);
  const std::vector<int> tokens = RandomTokens(model_.spec, 1, 45)[0];
  const std::vector<double> expected = TrainingLosses(tokens);
  // Chunk 4, segment 8, window 6.
  const std::vector<std::vector<int64_t>> cuts = {{45}, {1},  {2}, {3},       {4},        {5},
                                                  {7},  {8},  {9}, {16},      {17},       {1, 44},
                                                  {44}, {13}, {6}, {5, 1, 7}, {24, 1, 11}};
  for (const std::vector<int64_t>& cut : cuts) {
    SCOPED_TRACE("cut " + ::testing::PrintToString(cut));
    ExpectNear(LossesInPieces(model_, tokens, cut), expected);
  }
}

TEST_P(Generation, AfterAnyPromptEveryTokenHasTheTrainingForwardsLogits) {
  SCOPED_TRACE(model_.name);
  const int64_t length = 33;
  const std::vector<int> tokens = RandomTokens(model_.spec, 1, length)[0];
  SequenceRunner whole(model_.spec, model_.parameters);
  const Tensor rows = whole.Run(Ids(tokens, 0, length));
  const std::vector<double> expected = whole.Logits(rows).ToDoubles();  // [T, V]
  const std::vector<int32_t> ids(tokens.begin(), tokens.end());
  const int64_t vocabulary = model_.spec.vocabulary;
  for (const int64_t prompt : {1, 3, 4, 5, 7, 8, 9, 23, 24, 25}) {
    for (const int64_t slice : {int64_t{2048}, int64_t{6}}) {
      if (prompt <= 8 && slice == 6) continue;
      SCOPED_TRACE("prompt " + std::to_string(prompt));
      Generator generator(model_.spec, model_.parameters, {.temperature = 0}, vocabulary);
      generator.Feed(std::span(ids).first(prompt), slice);
      for (int64_t t = prompt; t <= length; ++t) {
        const std::vector<double> logits = generator.Logits();
        const auto at = expected.begin() + (t - 1) * vocabulary;
        ExpectNear(logits, std::vector<double>(at, at + vocabulary));
        if (t < length) generator.Feed(std::span(ids).subspan(t, 1));
      }
    }
  }
}

TEST_P(Generation, GreedyContinuationIsWhatThePiecewiseArgmaxSays) {
  SCOPED_TRACE(model_.name);
  const std::vector<int> prompt = RandomTokens(model_.spec, 1, 10)[0];
  std::vector<int32_t> ids(prompt.begin(), prompt.end());
  Generator generator(model_.spec, model_.parameters, {.temperature = 0}, model_.spec.vocabulary);
  generator.Feed(ids);
  for (int i = 0; i < 9; ++i) {
    SequenceRunner again(model_.spec, model_.parameters);
    const Tensor rows = again.Run(
        Tensor::FromHost(std::span<const int32_t>(ids), {static_cast<int64_t>(ids.size())}));
    const std::vector<double> logits =
        again.Logits(rows.Slice(0, rows.dim(0) - 1, rows.dim(0))).ToDoubles();
    ids.push_back(
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    ASSERT_EQ(generator.Next(), ids.back()) << "token " << i;
  }
}

TEST_P(Generation, StateStaysConstantButForFullAttention) {
  SCOPED_TRACE(model_.name);
  Generator generator(model_.spec, model_.parameters, {.seed = 3}, model_.spec.vocabulary);
  const std::vector<int32_t> prompt(48, 2);  // whole chunks, segments and windows
  generator.Feed(prompt);
  const int64_t before = generator.StateBytes();
  if (!model_.spec.full_attention()) {
    EXPECT_EQ(before, model_.spec.layers * CarryBytes(model_.spec, 1, DType::kF64));
  }
  for (int i = 0; i < 24; ++i) generator.Next();
  generator.Logits();  // the last token has run too
  if (model_.spec.full_attention()) {
    EXPECT_EQ(generator.StateBytes(), before / 48 * (48 + 24));
  } else {
    EXPECT_EQ(generator.StateBytes(), before);
  }
}

TEST_P(Generation, DocumentsCutIntoSlicesAreSequencesOfTheirOwn) {
  SCOPED_TRACE(model_.name);
  const int64_t step = model_.spec.alignment(), length = 6 * step;
  const std::vector<int> tokens = RandomTokens(model_.spec, 1, length)[0];
  std::vector<uint8_t> flags(6, 0);
  flags[2] = flags[3] = 1;
  for (const int64_t groups : {1, 2, 6}) {
    SequenceRunner runner(model_.spec, model_.parameters);
    std::vector<double> losses;
    for (int64_t g = 0; g < 6; g += groups) {
      const int64_t begin = g * step, end = (g + groups) * step;
      const Tensor rows =
          runner.Run(Ids(tokens, begin, end), std::span<const uint8_t>(flags).subspan(g, groups));
      const std::vector<double> part =
          runner.Losses(rows, Ids(tokens, begin + 1, end + 1), 100).ToDoubles();
      losses.insert(losses.end(), part.begin(), part.end());
    }
    std::vector<double> expected;
    for (const auto& [begin, end] :
         {std::pair{int64_t{0}, 2 * step}, {2 * step, 3 * step}, {3 * step, 6 * step}}) {
      const std::vector<double> part =
          LossesInPieces(model_, {tokens.begin() + begin, tokens.begin() + end + 1}, {end - begin});
      expected.insert(expected.end(), part.begin(), part.end());
    }
    ExpectNear(losses, expected);
  }
}

INSTANTIATE_TEST_SUITE_P(AllModels, Generation,
                         ::testing::Range(0, static_cast<int>(AllTinyModels().size())));

TEST(GeneratorTest, NeedsAPrompt) {
  const TinyModel model = AllTinyModels()[0];
  Generator generator(model.spec, model.parameters, {}, model.spec.vocabulary);
  EXPECT_THROW(generator.Next(), TensorError);
}

TEST(GeneratorTest, TheSeedDecidesAndTokensBeyondTheVocabularyNeverCome) {
  const TinyModel model = AllTinyModels()[2];
  const int32_t prompt[] = {1, 2, 3};
  const auto sample = [&](uint64_t seed, int64_t vocabulary) {
    Generator generator(model.spec, model.parameters, {.temperature = 2, .seed = seed}, vocabulary);
    generator.Feed(prompt);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 40; ++i) tokens.push_back(generator.Next());
    return tokens;
  };
  EXPECT_EQ(sample(1, 11), sample(1, 11));
  EXPECT_NE(sample(1, 11), sample(2, 11));
  EXPECT_THAT(sample(1, 5), ::testing::Each(::testing::Lt(5)));
}

}  // namespace
}  // namespace mnemo::testing
