// How a world of threads ends when something goes wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/core/status.h"
#include "src/parallel/thread_transport.h"
#include "tests/parallel/rank_worlds.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const Channel kA{7, "a"};

TEST(TransportFailureTest, AFailedRankEndsTheWaitsOfTheOthers) {
  std::atomic<int> told = 0;
  const absl::Status status = RunOnThreads(4, {}, [&](Transport& t) -> absl::Status {
    if (t.rank() == 2) return FailedPrecondition("no such file");
    std::vector<std::byte> in(10);
    const absl::Status end = t.Receive((t.rank() + 1) % 4, kA, in).Wait(kPatience);
    EXPECT_EQ(end.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(end.message()),
                AllOf(HasSubstr("receive from rank"), HasSubstr("rank 2 failed: no such file")));
    ++told;
    return end;
  });
  EXPECT_EQ(told, 3);
  EXPECT_EQ(status.message(), "no such file");  // the first, not what followed from it
}

TEST(TransportFailureTest, AnExceptionIsAFailure) {
  const absl::Status status = RunOnThreads(2, {}, [&](Transport& t) -> absl::Status {
    if (t.rank() == 1) throw TensorError(InvalidArgument("bad shape"));
    std::vector<std::byte> in(10);
    return t.Receive(1, kA, in).Wait(kPatience);
  });
  EXPECT_EQ(status.message(), "bad shape");
}

TEST(TransportFailureTest, NothingStartsAfterAnAbort) {
  ThreadWorld world(2);
  world.rank(0).Abort(absl::UnavailableError("over"));
  world.rank(1).Abort(absl::InternalError("later"));  // changes nothing
  EXPECT_EQ(world.rank(1).status().message(), "rank 0 failed: over");
  std::vector<std::byte> bytes(10);
  EXPECT_TRUE(absl::IsUnavailable(world.rank(0).Send(1, kA, bytes).Wait(kPatience)));
  EXPECT_TRUE(absl::IsUnavailable(world.rank(1).Receive(0, kA, bytes).Wait(kPatience)));
}

TEST(TransportFailureTest, AWrongLengthIsAnError) {
  ThreadWorld world(2);
  std::vector<std::byte> out(9), in(10);
  Transfer send = world.rank(0).Send(1, kA, out);
  const absl::Status status = world.rank(1).Receive(0, kA, in).Wait(kPatience);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("a message of 9 bytes came"));
}

TEST(TransportFailureTest, GivingUpATransferAbortsTheWorld) {
  ThreadWorld world(2);
  {
    std::vector<std::byte> in(10);
    const Transfer dropped = world.rank(1).Receive(0, kA, in);
  }
  EXPECT_TRUE(absl::IsCancelled(world.rank(0).status()));
  EXPECT_THAT(std::string(world.rank(0).status().message()),
              AllOf(HasSubstr("rank 1: receive from rank 0"), HasSubstr("given up")));
}

TEST(TransportFailureTest, UnreadMessagesMayBeLeftBehind) {
  ThreadWorld world(2);
  const std::vector<std::byte> out(10);
  EXPECT_OK(world.rank(0).Send(1, kA, out).Wait(kPatience));
}

TEST(TransportFailureTest, DelaysAreRepeatableAndBounded) {
  const DelayOptions options{std::chrono::microseconds(1000), 3};
  std::set<int64_t> seen;
  for (int64_t i = 0; i < 100; ++i) {
    const auto delay = DelayOf(options, 1, i);
    EXPECT_EQ(delay, DelayOf(options, 1, i));
    EXPECT_TRUE(delay.count() >= 0 && delay.count() < 1000);
    seen.insert(delay.count());
  }
  EXPECT_GT(seen.size(), 50u);
  EXPECT_NE(DelayOf(options, 1, 5), DelayOf(options, 2, 5));
  EXPECT_EQ(DelayOf({}, 1, 5).count(), 0);
}

}  // namespace
}  // namespace mnemo
