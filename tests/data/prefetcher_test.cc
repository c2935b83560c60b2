#include "src/data/prefetcher.h"

#include <atomic>
#include <chrono>
#include <stdexcept>

#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<const SampleStream> TestStream(const TestDirectory& directory) {
  WriteShard(directory / "a.h5", RandomDocuments(50, 60, 256, 4), TestTokenizer());
  std::shared_ptr<const TokenStream> stream =
      *TokenStream::Open(OpenSet({directory / "a.h5"}), DocumentLayout::kAligned, 8);
  return *SampleStream::Create(std::move(stream), {32, 2, 1});
}

TEST(Prefetcher, GivesWhatTheStreamGivesInOrder) {
  const TestDirectory directory;
  const auto stream = TestStream(directory);
  for (int depth : {0, 1, 5}) {
    Prefetcher prefetcher(
        [&](int64_t i) -> std::optional<absl::StatusOr<SliceBatch>> {
          if (i == 40) return std::nullopt;
          return stream->Read({i, 0, 2, 0, 32});
        },
        depth);
    for (int64_t i = 0; i < 40; ++i) {
      const auto batch = prefetcher.Next();
      ASSERT_OK(batch);
      const auto direct = stream->Read({i, 0, 2, 0, 32});  // both threads read at once
      ASSERT_OK(direct);
      EXPECT_EQ(batch->tokens, direct->tokens);
      EXPECT_EQ(batch->targets, direct->targets);
      EXPECT_EQ(batch->resets, direct->resets);
      EXPECT_EQ(batch->valid, direct->valid);
    }
    EXPECT_EQ(prefetcher.Next().status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(prefetcher.Next().status().code(), absl::StatusCode::kOutOfRange);
  }
}

TEST(Prefetcher, DeliversErrorsAfterWhatCameBefore) {
  Prefetcher prefetcher(
      [](int64_t i) -> std::optional<absl::StatusOr<SliceBatch>> {
        if (i == 2) return absl::DataLossError("block 7 is damaged");
        SliceBatch batch;
        batch.length = i;
        return batch;
      },
      8);
  EXPECT_EQ(prefetcher.Next()->length, 0);
  EXPECT_EQ(prefetcher.Next()->length, 1);
  EXPECT_EQ(Failure(prefetcher.Next()), "block 7 is damaged");
  EXPECT_EQ(Failure(prefetcher.Next()), "block 7 is damaged");
}

TEST(Prefetcher, TurnsExceptionsIntoErrors) {
  Prefetcher prefetcher(
      [](int64_t) -> std::optional<absl::StatusOr<SliceBatch>> { throw std::runtime_error("no"); },
      1);
  EXPECT_THAT(Failure(prefetcher.Next()), HasSubstr("reading ahead failed: no"));
}

// The queue is bounded, and stopping waits for no more than the read at hand.
TEST(Prefetcher, ReadsNoFartherAheadThanAsked) {
  std::atomic<int64_t> made = 0;
  {
    Prefetcher prefetcher(
        [&](int64_t i) -> std::optional<absl::StatusOr<SliceBatch>> {
          made = i + 1;
          return SliceBatch{};
        },
        3);
    while (made < 3) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(made, 3);
    EXPECT_OK(prefetcher.Next());
    while (made < 4) std::this_thread::yield();
  }
  EXPECT_EQ(made, 4);
}

}  // namespace
}  // namespace mnemo
