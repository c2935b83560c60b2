// Slots are a hard bound, and what goes wrong on an edge ends with a message. Ranks as threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>

#include "src/core/status.h"
#include "src/parallel/relay.h"
#include "src/parallel/thread_transport.h"
#include "tests/parallel/rank_worlds.h"
#include "tests/parallel/toy_model.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TransportRelayOptions Options(const ScheduleShape& shape, const EdgeSlots& slots) {
  TransportRelayOptions options;
  options.shape = shape;
  for (int rank = 0; rank < shape.ranks; ++rank) options.ranks.push_back(rank);
  options.slots = slots;
  options.timeout = kPatience;
  return options;
}

// Nobody starts a unit that will send before there is a slot for it, however slow the other side.
TEST(RelayFailureTest, SlotsAreNeverExceeded) {
  for (const int slow : {0, 1, 2}) {
    const ScheduleShape shape{9, 3, 5, 1};
    const EdgeSlots slots = SlotsForFullSpeed(shape);
    // By direction and edge: slots taken by units that began, less those freed by units that ended.
    std::array<std::array<std::atomic<int>, 3>, 2> taken{};
    std::atomic<int> highest_wrap = 0;
    EXPECT_OK(RunOnThreads(3, {}, [&](Transport& t) -> absl::Status {
      const auto observe = [&](Direction direction, const Unit& unit, bool begins) {
        auto& edges = taken[static_cast<size_t>(direction)];
        const bool forward = direction == Direction::kForward;
        const bool receives = forward ? unit.slice > 0 : unit.slice + 1 < shape.slices;
        const bool sends = forward ? unit.slice + 1 < shape.slices : unit.slice > 0;
        if (begins && sends) {
          const int edge = SendEdge(shape, t.rank(), direction);
          const int now = ++edges[edge];
          EXPECT_LE(now, SlotsOf(shape, slots, edge));
          if (edge == 2) highest_wrap = std::max(highest_wrap.load(), now);
        }
        if (begins && t.rank() == slow) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        if (!begins && receives) --edges[ReceiveEdge(shape, t.rank(), direction)];
      };
      ToyModel model(shape, observe);
      const auto relay = MakeTransportRelay(t, Options(shape, slots));
      MNEMO_RETURN_IF_ERROR(RunForward(shape, t.rank(), *relay, model));
      MNEMO_RETURN_IF_ERROR(RunBackward(shape, t.rank(), *relay, model));
      return relay->Drain();
    }));
    EXPECT_GE(highest_wrap, 2);
  }
}

TEST(RelayFailureTest, TooFewSlotsEndAtTheDeadline) {
  const ScheduleShape shape{6, 2, 12, 1};
  const absl::Status status = RunOnThreads(2, {}, [&](Transport& t) {
    TransportRelayOptions options = Options(shape, {1, 1});
    options.timeout = std::chrono::milliseconds(100);
    const auto relay = MakeTransportRelay(t, options);
    ToyModel model(shape);
    return RunForward(shape, t.rank(), *relay, model);
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status.message();
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("forward"), HasSubstr(", edge ")));
}

TEST(RelayFailureTest, OneRankWithTooFewSlotsSaysSo) {
  const ScheduleShape shape{3, 1, 4, 2};
  ToyModel model(shape);
  const absl::Status status = RunForward(shape, 0, *MakeLocalRelay(shape, {8, 2}), model);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("all 8 slots of the forward hand-off"));
  EXPECT_OK(
      RunForward(shape, 0, *MakeLocalRelay(shape, {9, 2}), *std::make_unique<ToyModel>(shape)));
}

TEST(RelayFailureTest, AFailingUnitEndsTheOthers) {
  const ScheduleShape shape{9, 3, 4, 1};
  const absl::Status status = RunOnThreads(3, {}, [&](Transport& t) {
    ToyModel model(shape, [&](Direction direction, const Unit& unit, bool) {
      Require(direction != Direction::kBackward || unit != Unit{0, 4, 2}, "not finite");
    });
    const auto relay = MakeTransportRelay(t, Options(shape, SlotsForFullSpeed(shape)));
    MNEMO_RETURN_IF_ERROR(RunForward(shape, t.rank(), *relay, model));
    const absl::Status end = RunBackward(shape, t.rank(), *relay, model);
    EXPECT_THAT(std::string(end.message()), HasSubstr("rank 1 failed: not finite"));
    return end;
  });
  EXPECT_EQ(status.message(), "not finite");
}

TEST(RelayFailureTest, ADifferentPlanIsNoticed) {
  const absl::Status status = RunOnThreads(2, {}, [&](Transport& t) {
    const ScheduleShape shape{4, 2, 3, 1 + t.rank()};
    const auto relay = MakeTransportRelay(t, Options(shape, {10, 10}));
    ToyModel model(shape);
    return RunForward(shape, t.rank(), *relay, model);
  });
  EXPECT_TRUE(absl::IsInternal(status)) << status.message();
  EXPECT_THAT(std::string(status.message()), HasSubstr("do all ranks follow the same plan?"));
}

}  // namespace
}  // namespace mnemo
