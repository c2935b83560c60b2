// Streams and batches against a form so plain that it can be checked by eye.
#include "src/data/token_stream.h"

#include <fmt/format.h>

#include "src/core/random.h"
#include "src/data/sample_stream.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kSeparator = 256;

struct Plain {
  std::vector<int32_t> tokens, targets;
  std::vector<uint8_t> resets;  // one a position: a document starts here
};

Plain PlainConcatenated(const Documents& documents) {
  Plain plain;
  for (const auto& document : documents) {
    plain.tokens.insert(plain.tokens.end(), document.begin(), document.end());
    plain.tokens.push_back(kSeparator);
  }
  plain.targets.assign(plain.tokens.begin() + 1, plain.tokens.end());
  plain.tokens.pop_back();
  plain.resets.assign(plain.tokens.size(), 0);
  return plain;
}

Plain PlainAligned(const Documents& documents, int64_t alignment) {
  Plain plain;
  for (const auto& document : documents) {
    for (size_t i = 0; i <= document.size(); ++i) {
      plain.tokens.push_back(i < document.size() ? document[i] : kSeparator);
      plain.targets.push_back(i + 1 < document.size()    ? document[i + 1]
                              : i + 1 == document.size() ? kSeparator
                                                         : kNoTarget);
      plain.resets.push_back(i == 0);
    }
    while (plain.tokens.size() % static_cast<size_t>(alignment) != 0) {
      plain.tokens.push_back(kSeparator);
      plain.targets.push_back(kNoTarget);
      plain.resets.push_back(0);
    }
  }
  return plain;
}

struct Case {
  DocumentLayout layout;
  int64_t alignment;
  int longest;
};

// Three shards; the last case has more than one group of 1,024 documents.
class Streams : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const int count = GetParam().longest < 5 ? 1500 : 40;
    Documents all;
    std::vector<std::string> paths;
    for (int i = 0; i < 3; ++i) {
      const Documents documents = RandomDocuments(count, GetParam().longest, 256, 10 + i);
      all.insert(all.end(), documents.begin(), documents.end());
      paths.push_back(directory_ / fmt::format("{}.h5", i));
      WriteShard(paths.back(), documents, TestTokenizer());
    }
    plain_ = GetParam().layout == DocumentLayout::kAligned ? PlainAligned(all, GetParam().alignment)
                                                           : PlainConcatenated(all);
    auto stream = TokenStream::Open(OpenSet(paths), GetParam().layout, GetParam().alignment);
    ASSERT_OK(stream);
    stream_ = *std::move(stream);
  }

  void ExpectPlain(const SliceBatch& batch, int64_t sequence, int64_t begin) {
    const int64_t groups = (batch.length + GetParam().alignment - 1) / GetParam().alignment;
    for (int64_t i = 0; i < batch.length; ++i) {
      const size_t at = static_cast<size_t>(sequence * batch.length + i);
      const size_t position = static_cast<size_t>(begin + i);
      ASSERT_EQ(batch.tokens[at], plain_.tokens[position]) << position;
      ASSERT_EQ(batch.targets[at], plain_.targets[position]) << position;
      if (i % GetParam().alignment == 0) {
        const size_t group = static_cast<size_t>(sequence * groups + i / GetParam().alignment);
        ASSERT_EQ(batch.resets[group], plain_.resets[position]) << position;
      }
    }
  }
  // Where in the sequence at `start` the document of its position `at` began, 0 if before it.
  int64_t DocumentStart(int64_t start, int64_t at) const {
    while (at > 0 && plain_.resets[start + at] == 0) --at;
    return at;
  }
  int64_t PlainTargets(int64_t begin, int64_t end) const {
    return end - begin -
           std::count(plain_.targets.begin() + begin, plain_.targets.begin() + end, kNoTarget);
  }

  TestDirectory directory_;
  Plain plain_;
  std::shared_ptr<const TokenStream> stream_;
};
INSTANTIATE_TEST_SUITE_P(Layouts, Streams,
                         testing::Values(Case{DocumentLayout::kConcatenated, 1, 50},
                                         Case{DocumentLayout::kConcatenated, 8, 50},
                                         Case{DocumentLayout::kAligned, 1, 50},
                                         Case{DocumentLayout::kAligned, 8, 50},
                                         Case{DocumentLayout::kAligned, 16, 300},
                                         Case{DocumentLayout::kAligned, 4, 4}));

TEST_P(Streams, AnyRangeIsThatOfThePlainForm) {
  ASSERT_EQ(stream_->length(), static_cast<int64_t>(plain_.tokens.size()));
  const int64_t unit =
      GetParam().layout == DocumentLayout::kAligned ? GetParam().alignment : int64_t{1};
  const RandomStream random(5, 0, "test/ranges");
  const uint64_t units = static_cast<uint64_t>(stream_->length() / unit);
  for (uint64_t i = 0; i < 60; ++i) {
    int64_t begin = static_cast<int64_t>(random.Below(2 * i, units + 1)) * unit;
    int64_t end = static_cast<int64_t>(random.Below(2 * i + 1, units + 1)) * unit;
    if (i == 0) begin = 0, end = stream_->length();
    if (begin > end) std::swap(begin, end);
    SliceBatch batch;
    batch.sequences = 1;
    batch.length = end - begin;
    batch.tokens.resize(static_cast<size_t>(end - begin));
    batch.targets.resize(batch.tokens.size());
    batch.resets.resize((batch.tokens.size() + GetParam().alignment - 1) / GetParam().alignment);
    const auto valid = stream_->Read(begin, batch.tokens, batch.targets, batch.resets);
    ASSERT_OK(valid);
    EXPECT_EQ(*valid, PlainTargets(begin, end));
    EXPECT_EQ(*stream_->CountTargets(begin, end), *valid);
    ExpectPlain(batch, 0, begin);
  }
}

TEST_P(Streams, CountsTargetsOfAnyRange) {
  for (int64_t begin = 0; begin < stream_->length(); begin += 1 + stream_->length() / 23) {
    for (int64_t end = begin; end <= stream_->length(); end += 1 + stream_->length() / 19) {
      ASSERT_EQ(*stream_->CountTargets(begin, end), PlainTargets(begin, end))
          << begin << " " << end;
    }
  }
}

TEST_P(Streams, SlicesAreAPureFunctionOfTheRequest) {
  const int64_t T = 4 * GetParam().alignment;
  auto samples = SampleStream::Create(stream_, {T, 3, 9});
  ASSERT_OK(samples);
  const SampleStream& stream = **samples;
  for (int64_t step : {40, 3, 40, 0}) {
    const auto whole = stream.Read({step, 0, 3, 0, T});
    ASSERT_OK(whole);
    EXPECT_EQ(*stream.ValidTargets(step), whole->valid);
    int64_t valid = 0;
    for (int64_t i = 2; i >= 0; --i) {
      const int64_t start = stream.SequenceAt(step, i) * T;
      for (int64_t begin : {T / 2, int64_t{0}}) {
        const auto part = stream.Read({step, i, 1, begin, begin + T / 2});
        ASSERT_OK(part);
        ExpectPlain(*part, 0, start + begin);
        EXPECT_EQ(part->document_starts, (std::vector<int64_t>{DocumentStart(start, begin)}));
        valid += part->valid;
      }
    }
    EXPECT_EQ(valid, whole->valid);
    ExpectPlain(*whole, 2, stream.SequenceAt(step, 2) * T);
  }
}

TEST_P(Streams, EachEpochVisitsEachSequenceOnceInAnOrderOfItsOwn) {
  auto samples = SampleStream::Create(stream_, {GetParam().alignment * 2, 1, 9});
  ASSERT_OK(samples);
  const int64_t count = (*samples)->sequences_per_epoch();
  EXPECT_EQ(count, stream_->length() / (GetParam().alignment * 2));
  std::vector<std::vector<int64_t>> epochs(2);
  for (int64_t step = 0; step < 2 * count; ++step) {
    epochs[static_cast<size_t>(step / count)].push_back((*samples)->SequenceAt(step, 0));
  }
  EXPECT_NE(epochs[0], epochs[1]);
  for (auto& epoch : epochs) {
    EXPECT_FALSE(std::is_sorted(epoch.begin(), epoch.end()));
    std::sort(epoch.begin(), epoch.end());
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(epoch[static_cast<size_t>(i)], i);
  }
}

TEST_P(Streams, EvaluationVisitsEachTargetOnceInOrder) {
  const int64_t T = 3 * GetParam().alignment;
  auto evaluation = EvaluationStream::Create(stream_, T);
  ASSERT_OK(evaluation);
  std::vector<int32_t> tokens, targets;
  int64_t valid = 0;
  for (int64_t i = 0; i < (*evaluation)->sequences(); ++i) {
    const auto batch = (*evaluation)->Read(i, 0, (*evaluation)->length(i));
    ASSERT_OK(batch);
    tokens.insert(tokens.end(), batch->tokens.begin(), batch->tokens.end());
    targets.insert(targets.end(), batch->targets.begin(), batch->targets.end());
    valid += batch->valid;
  }
  EXPECT_EQ(tokens, plain_.tokens);
  EXPECT_EQ(targets, plain_.targets);
  EXPECT_EQ(*(*evaluation)->ValidTargets(), valid);
}

TEST(SampleStream, RefusesWhatDoesNotFit) {
  const TestDirectory directory;
  WriteShard(directory / "a.h5", {{1, 2, 3, 4, 5, 6, 7}}, TestTokenizer());
  const auto set = OpenSet({directory / "a.h5"});
  EXPECT_THAT(Failure(TokenStream::Open(set, DocumentLayout::kAligned, 0)),
              HasSubstr("alignment of 0"));
  std::shared_ptr<const TokenStream> stream =
      *TokenStream::Open(set, DocumentLayout::kConcatenated, 1);
  EXPECT_THAT(Failure(SampleStream::Create(stream, {8, 1, 0})),
              HasSubstr("the training data is 7 tokens long, a sequence 8"));
  EXPECT_THAT(Failure(SampleStream::Create(stream, {0, 1, 0})), HasSubstr("sequences of 0 tokens"));
  EXPECT_THAT(Failure(SampleStream::Create(stream, {7, 0, 0})), HasSubstr("0 sequences a step"));
  std::shared_ptr<const TokenStream> aligned = *TokenStream::Open(set, DocumentLayout::kAligned, 4);
  EXPECT_THAT(Failure(SampleStream::Create(aligned, {6, 1, 0})), HasSubstr("not a multiple of 4"));
  auto samples = SampleStream::Create(stream, {7, 2, 0});
  ASSERT_OK(samples);
  EXPECT_THAT(Failure((*samples)->Read({0, 1, 2, 0, 7})), HasSubstr("lie outside its 2 sequences"));
  EXPECT_THAT(Failure((*samples)->Read({0, 0, 1, 0, 8})), HasSubstr("lie outside"));
  EXPECT_THAT(Failure((*samples)->Read({-1, 0, 1, 0, 7})), HasSubstr("lie outside"));
}

}  // namespace
}  // namespace mnemo
