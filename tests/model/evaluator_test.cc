#include "src/model/evaluator.h"

#include <cmath>
#include <new>

#include "tests/data/data_test_util.h"
#include "tests/model/tiny_model.h"

namespace mnemo::testing {
namespace {

using ::testing::HasSubstr;

// f32 losses: the sums behind them are f64.
constexpr double kTolerance = 1e-6;

class EvaluatorTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    model_ = AllTinyModels()[GetParam()];
    documents_ = RandomDocuments(9, 14, 10, 5);
    ShardTokenizer tokenizer = TestTokenizer(11);
    tokenizer.separator = 10;
    WriteShard(directory_ / "eval-0.h5", documents_, tokenizer);
    set_ = OpenSet({directory_ / "eval-0.h5"});
    for (const auto& document : documents_) {
      text_.insert(text_.end(), document.begin(), document.end());
      text_.push_back(10);
    }
  }

  std::unique_ptr<EvaluationStream> Open(DocumentLayout layout, int64_t length) {
    const bool aligned = layout == DocumentLayout::kAligned;
    auto stream = TokenStream::Open(set_, layout, aligned ? model_.spec.alignment() : 1);
    EXPECT_OK(stream.status());
    auto evaluation = EvaluationStream::Create(*std::move(stream), length);
    EXPECT_OK(evaluation.status());
    return *std::move(evaluation);
  }

  // Losses in the order of the stream; NaN where there is no target.
  std::vector<double> Losses(const EvaluationStream& stream, const EvaluationOptions& options,
                             EvaluationResult* result = nullptr) {
    std::vector<double> losses;
    const auto sink = [&](const EvaluatedSlice& slice) {
      for (size_t i = 0; i < slice.losses.size(); ++i) {
        losses.push_back(slice.targets[i] < 0 ? std::nan("") : slice.losses[i]);
      }
      return absl::OkStatus();
    };
    const auto got = Evaluate(model_.spec, model_.parameters, stream, options, sink);
    EXPECT_OK(got.status());
    if (result != nullptr) *result = *got;
    return losses;
  }

  // Losses of tokens [begin, end] of some text as a sequence of its own.
  std::vector<double> Expected(const std::vector<int>& text) {
    const int64_t length = static_cast<int64_t>(text.size()) - 1;
    return RunStep(model_.spec, model_.parameters, {text}, {.slices = {length}, .gradients = false})
        .losses[0];
  }

  TinyModel model_;
  TestDirectory directory_;
  Documents documents_;
  std::shared_ptr<const TokenSet> set_;
  std::vector<int> text_;
};

void ExpectSame(const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::isnan(a[i]), std::isnan(b[i])) << i;
    if (std::isnan(a[i])) continue;
    ASSERT_NEAR(a[i], b[i], kTolerance) << i;
  }
}

TEST_P(EvaluatorTest, SequencesOfAStreamInAnySlices) {
  SCOPED_TRACE(model_.name);
  const int64_t total = static_cast<int64_t>(text_.size()) - 1;
  std::vector<double> expected;
  for (int64_t begin = 0; begin < total; begin += 25) {
    const int64_t end = std::min(total, begin + 25);
    for (const double loss : Expected({text_.begin() + begin, text_.begin() + end + 1})) {
      expected.push_back(loss);
    }
  }
  const auto stream = Open(DocumentLayout::kConcatenated, 25);
  for (const int64_t slice : {0, 25, 8, 7, 1}) {
    SCOPED_TRACE(slice);
    EvaluationResult result;
    ExpectSame(Losses(*stream, {.slice = slice, .vocabulary_tile = 5}, &result), expected);
    EXPECT_EQ(result.positions, total);
    EXPECT_EQ(result.targets, total);
    EXPECT_EQ(result.sequences, (total + 24) / 25);
  }
}

TEST_P(EvaluatorTest, DocumentsThatResetTheStateAreSequencesOfTheirOwn) {
  SCOPED_TRACE(model_.name);
  const int64_t step = model_.spec.alignment();
  std::vector<double> expected;
  for (const auto& document : documents_) {
    std::vector<int> text(document.begin(), document.end());
    text.push_back(10);
    for (const double loss : Expected(text)) expected.push_back(loss);
    do {
      expected.push_back(std::nan(""));  // the separator, then padding
    } while (static_cast<int64_t>(expected.size()) % step != 0);
  }
  const auto stream = Open(DocumentLayout::kAligned, 1000 * step);
  EvaluationResult result;
  ExpectSame(Losses(*stream, {}, &result), expected);
  EXPECT_LT(result.targets, result.positions);
  ExpectSame(Losses(*stream, {.slice = 3 * step}), expected);
}

INSTANTIATE_TEST_SUITE_P(AllModels, EvaluatorTest,
                         ::testing::Range(0, static_cast<int>(AllTinyModels().size())));

class EvaluatorOfLmm : public EvaluatorTest {};

TEST_P(EvaluatorOfLmm, BucketsAddUpAndDoubleInSize) {
  const auto stream = Open(DocumentLayout::kConcatenated, 30);
  EvaluationResult result;
  const std::vector<double> losses = Losses(*stream, {.slice = 7}, &result);
  double sum = 0;
  int64_t targets = 0, next = 0;
  for (size_t k = 0; k < result.buckets.size(); ++k) {
    const PositionBucket& bucket = result.buckets[k];
    EXPECT_EQ(bucket.first, next);
    const bool last = k + 1 == result.buckets.size();  // sequences end at 30, inside it
    EXPECT_EQ(bucket.last - bucket.first + 1, last ? 15 : int64_t{1} << k);
    next = bucket.last + 1;
    sum += bucket.loss_sum;
    targets += bucket.targets;
    double expected = 0;
    for (size_t i = 0; i < losses.size(); ++i) {
      const int64_t position = static_cast<int64_t>(i) % 30;
      if (position >= bucket.first && position <= bucket.last) expected += losses[i];
    }
    EXPECT_NEAR(bucket.loss_sum, expected, 1e-9);
  }
  EXPECT_EQ(targets, result.targets);
  EXPECT_NEAR(sum, result.loss_sum, 1e-9);
  EXPECT_NEAR(result.loss(), sum / static_cast<double>(targets), 1e-12);
}

TEST_P(EvaluatorOfLmm, StopsAfterSoManyTokensInsideASequence) {
  const auto stream = Open(DocumentLayout::kConcatenated, 20);
  EvaluationResult result;
  const std::vector<double> all = Losses(*stream, {.slice = 20});
  const std::vector<double> some = Losses(*stream, {.slice = 20, .max_positions = 47}, &result);
  ASSERT_EQ(some.size(), 47u);
  ExpectSame(some, {all.begin(), all.begin() + 47});
  EXPECT_EQ(result.sequences, 3);
  EXPECT_EQ(SequenceOffsets(*stream, 47), (std::vector<uint64_t>{0, 20, 40, 47}));
  const uint64_t whole = all.size();
  EXPECT_EQ(SequenceOffsets(*stream, 0).back(), whole);
  EXPECT_EQ(SequenceOffsets(*stream, 40), (std::vector<uint64_t>{0, 20, 40}));
}

TEST_P(EvaluatorOfLmm, ErrorsOfTheStreamAndOfTheSinkArePassedOn) {
  const auto stream = Open(DocumentLayout::kAligned, 8);
  const auto unaligned = Evaluate(model_.spec, model_.parameters, *stream, {.slice = 5});
  EXPECT_THAT(Failure(unaligned), HasSubstr("multiple"));
  const auto sink = [](const EvaluatedSlice&) { return absl::DataLossError("no more"); };
  const auto failed = Evaluate(model_.spec, model_.parameters, *stream, {.slice = 8}, sink);
  EXPECT_EQ(Failure(failed), "no more");
}

TEST_P(EvaluatorOfLmm, WhatIsThrownBecomesAStatus) {
  const auto stream = Open(DocumentLayout::kAligned, 8);
  const auto run = [&](const EvaluationSink& sink) {
    return Evaluate(model_.spec, model_.parameters, *stream, {.slice = 8}, sink).status();
  };
  const absl::Status memory =
      run([](const EvaluatedSlice&) -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(memory.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(memory.message()), HasSubstr("train.slice"));
  EXPECT_EQ(run([](const EvaluatedSlice&) -> absl::Status {
              throw TensorError(absl::UnavailableError("a rank is lost"));
            }),
            absl::UnavailableError("a rank is lost"));
}

INSTANTIATE_TEST_SUITE_P(Lmm, EvaluatorOfLmm, ::testing::Values(0));

}  // namespace
}  // namespace mnemo::testing
