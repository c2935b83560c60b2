// The schedule over real ranks and slots gives what plain loops give.
#include "src/parallel/relay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <thread>

#include "src/parallel/simulate.h"
#include "tests/parallel/rank_worlds.h"
#include "tests/parallel/toy_model.h"

namespace mnemo {
namespace {

std::unique_ptr<Relay> MakeRelay(Transport& t, const ScheduleShape& shape, const EdgeSlots& slots) {
  if (t.size() == 1) return MakeLocalRelay(shape, slots);
  TransportRelayOptions options;
  options.shape = shape;
  options.ranks.resize(t.size());
  std::iota(options.ranks.begin(), options.ranks.end(), 0);
  options.slots = slots;
  options.timeout = kPatience;
  return MakeTransportRelay(t, options);
}

void ExpectOwnUnits(const ToyResults& results, const ScheduleShape& shape, int rank) {
  const ToyResults reference = ToyReference(shape);
  size_t own = 0;
  for (const auto& [key, value] : reference) {
    if (std::get<2>(key) % shape.ranks != rank) continue;
    ++own;
    const auto found = results.find(key);
    ASSERT_NE(found, results.end());
    EXPECT_EQ(found->second, value);  // bitwise
  }
  EXPECT_EQ(results.size(), own);
}

// Slices that R divides and not, fewer than ranks, one; long turns and short; M = 1 and 2.
std::vector<ScheduleShape> Shapes(int ranks) {
  const int64_t r = ranks;
  return {{3 * r, ranks, 4, 1},     {3 * r + 1, ranks, 3, 2}, {2 * r - 1, ranks, 7, 1},
          {4 * r + 2, ranks, 1, 1}, {1, ranks, 3, 2},         {2, ranks, 2, 2}};
}

TEST(RelayTest, GivesTheSameOnAnyNumberOfRanks) {
  ForEachWorld([](Transport& t) {
    for (const ScheduleShape& shape : Shapes(t.size())) {
      const auto relay = MakeRelay(t, shape, SlotsForFullSpeed(shape));
      ToyModel model(shape);
      std::vector<UnitSpan> trace;
      ASSERT_OK(RunForward(shape, t.rank(), *relay, model, &trace));
      ASSERT_OK(RunBackward(shape, t.rank(), *relay, model, &trace));
      ASSERT_OK(relay->Drain());
      ExpectOwnUnits(model.results(), shape, t.rank());
      EXPECT_EQ(trace.size(), model.results().size());
    }
  });
}

// Several wavefronts through one relay, some of them forward only.
TEST(RelayTest, ARelayServesManyPasses) {
  ForEachWorld([](Transport& t) {
    const ScheduleShape shape{2L * t.size() + 1, t.size(), 3, 1};
    const auto relay = MakeRelay(t, shape, SlotsForFullSpeed(shape));
    for (int pass = 0; pass < 6; ++pass) {
      ToyModel model(shape);
      ASSERT_OK(RunForward(shape, t.rank(), *relay, model));
      if (pass % 3 == 1) continue;
      ASSERT_OK(RunBackward(shape, t.rank(), *relay, model));
      ExpectOwnUnits(model.results(), shape, t.rank());
    }
    ASSERT_OK(relay->Drain());
  });
}

// More slots than needed, and the fewest that still work (slowly), change nothing but time.
TEST(RelayTest, AnySufficientNumberOfSlotsWorks) {
  ForEachWorld([](Transport& t) {
    const ScheduleShape shape{3L * t.size(), t.size(), 6, 1};
    EdgeSlots fewest = SlotsForFullSpeed(shape);
    while (!Simulate(shape, {1, 1, 0, {fewest.wrap - 1, fewest.other}, 1}).deadlock) --fewest.wrap;
    for (const EdgeSlots& slots : {fewest, EdgeSlots{50, 50}}) {
      const auto relay = MakeRelay(t, shape, slots);
      ToyModel model(shape);
      ASSERT_OK(RunForward(shape, t.rank(), *relay, model));
      ASSERT_OK(RunBackward(shape, t.rank(), *relay, model));
      ASSERT_OK(relay->Drain());
      ExpectOwnUnits(model.results(), shape, t.rank());
    }
  });
}

// Ranks that are slow in turn, at random.
TEST(RelayTest, TimingDoesNotMatter) {
  ForEachWorld([](Transport& t) {
    const ScheduleShape shape{2L * t.size() + 1, t.size(), 3, 2};
    int64_t units = 0;
    const DelayOptions jitter{std::chrono::microseconds(2000), 5};
    ToyModel model(shape, [&](Direction, const Unit&, bool begins) {
      if (begins) std::this_thread::sleep_for(DelayOf(jitter, t.rank(), units++));
    });
    const auto relay = MakeRelay(t, shape, SlotsForFullSpeed(shape));
    ASSERT_OK(RunForward(shape, t.rank(), *relay, model));
    ASSERT_OK(RunBackward(shape, t.rank(), *relay, model));
    ASSERT_OK(relay->Drain());
    ExpectOwnUnits(model.results(), shape, t.rank());
  });
}

TEST(RelayTest, CountsWhatPasses) {
  ForEachWorld([](Transport& t) {
    const ScheduleShape shape{2L * t.size(), t.size(), 3, 2};
    const auto relay = MakeRelay(t, shape, SlotsForFullSpeed(shape));
    ToyModel model(shape);
    ASSERT_OK(RunForward(shape, t.rank(), *relay, model));
    ASSERT_OK(RunBackward(shape, t.rank(), *relay, model));
    ASSERT_OK(relay->Drain());
    for (const Direction direction : {Direction::kForward, Direction::kBackward}) {
      int64_t sends = 0, receives = 0;
      for (const PassUnit& step : PassOrder(shape, t.rank(), direction)) {
        sends += step.sends;
        receives += step.receives;
      }
      const RelayCounters counters = relay->counters(direction);
      EXPECT_EQ(counters.sent.messages, sends);
      EXPECT_EQ(counters.received.messages, receives);
      EXPECT_GE(counters.received.wait_seconds, 0);
      if (t.size() == 1) continue;
      // Every third hand-off holds 40 x 50 doubles, and none much more.
      EXPECT_GE(counters.sent.bytes, sends / 3 * 16000);
      EXPECT_LE(counters.sent.bytes, sends / 3 * 16000 + sends * 512);
    }
    const auto all = MakeWorld(t);
    std::vector<double> bytes(2);
    for (const Direction direction : {Direction::kForward, Direction::kBackward}) {
      bytes[0] += static_cast<double>(relay->counters(direction).sent.bytes);
      bytes[1] += static_cast<double>(relay->counters(direction).received.bytes);
    }
    ASSERT_OK(all->AllReduceSum(bytes));
    EXPECT_EQ(bytes[0], bytes[1]);
  });
}

}  // namespace
}  // namespace mnemo
