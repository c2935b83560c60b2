// The schedule on a fake clock against the closed forms of its step time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <tuple>

#include "src/parallel/simulate.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

// Times without a common divisor, so that no wrong count gives a right time.
constexpr int64_t kForward = 1009, kBackward = 2003;

struct Case {
  int64_t slices;
  int ranks, layers, micro_batches;
  ScheduleShape shape() const { return {slices, ranks, layers, micro_batches}; }
  int64_t turn() const { return int64_t{layers} * micro_batches; }
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "S=" << c.slices << " R=" << c.ranks << " L=" << c.layers
             << " M=" << c.micro_batches;
}

// L * M >= R: R divides S and not, one turn and many, M = 1 and more, L * M = R.
const Case kDeep[] = {{32, 8, 24, 1}, {8, 8, 24, 1}, {128, 8, 24, 1}, {12, 4, 4, 1},
                      {16, 4, 2, 2},  {6, 2, 3, 1},  {9, 3, 2, 2},    {5, 1, 3, 2},
                      {1, 1, 1, 1},   {10, 4, 6, 1}, {11, 4, 3, 2},   {7, 3, 3, 1},
                      {7, 2, 5, 3},   {3, 4, 6, 1},  {2, 8, 8, 1},    {29, 8, 12, 1}};
// L * M < R.
const Case kShallow[] = {{32, 8, 2, 1}, {16, 4, 1, 1}, {24, 8, 3, 2}, {8, 8, 1, 1},
                         {12, 6, 1, 5}, {20, 5, 2, 2}, {22, 5, 2, 2}, {13, 8, 1, 3}};

Simulation StepOf(const Case& c, const EdgeSlots& slots) {
  return Simulate(c.shape(),
                  {.forward_ticks = kForward, .backward_ticks = kBackward, .slots = slots});
}
Simulation StepOf(const Case& c) { return StepOf(c, SlotsForFullSpeed(c.shape())); }

class DeepTest : public ::testing::TestWithParam<Case> {};
class ShallowTest : public ::testing::TestWithParam<Case> {};
class AnyTest : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Schedule, DeepTest, ::testing::ValuesIn(kDeep));
INSTANTIATE_TEST_SUITE_P(Schedule, ShallowTest, ::testing::ValuesIn(kShallow));
INSTANTIATE_TEST_SUITE_P(ScheduleDeep, AnyTest, ::testing::ValuesIn(kDeep));
INSTANTIATE_TEST_SUITE_P(ScheduleShallow, AnyTest, ::testing::ValuesIn(kShallow));

TEST_P(DeepTest, TakesTheTimeOfTheFormula) {
  const Case c = GetParam();
  const Simulation step = StepOf(c);
  const int64_t turns = (c.slices + c.ranks - 1) / c.ranks;
  const int64_t expected = (turns * c.turn() + (c.slices - 1) % c.ranks) * (kForward + kBackward);
  ASSERT_FALSE(step.deadlock);
  EXPECT_EQ(step.ticks, expected);
  EXPECT_EQ(StepTicks(c.shape(), kForward, kBackward), expected);
  if (c.slices % c.ranks == 0) {
    const double units = static_cast<double>(turns * c.turn());
    EXPECT_DOUBLE_EQ(step.busy, units / (units + c.ranks - 1));
  }
}

TEST_P(ShallowTest, TakesTheTimeOfTheFormula) {
  const Case c = GetParam();
  ASSERT_LT(c.turn(), c.ranks);
  const Simulation step = StepOf(c);
  ASSERT_FALSE(step.deadlock);
  EXPECT_EQ(step.ticks, StepTicks(c.shape(), kForward, kBackward));
  if (c.slices % c.ranks == 0) {
    const int64_t turns = c.slices / c.ranks;
    EXPECT_EQ(step.ticks,
              ((turns - 1) * c.ranks + c.turn() + c.ranks - 1) * (kForward + kBackward));
  }
}

TEST_P(AnyTest, MoreSlotsGainNothing) {
  const Case c = GetParam();
  EXPECT_EQ(StepOf(c, {1000, 1000}).ticks, StepOf(c).ticks);
}

// One slot fewer is slower or hangs, wherever the slots are needed at all, and the planner's check
// refuses it.
TEST_P(AnyTest, FewerSlotsCostTime) {
  const Case c = GetParam();
  const EdgeSlots needed = SlotsForFullSpeed(c.shape());
  const int64_t full = StepOf(c).ticks;
  EXPECT_TRUE(CheckSlots(c.shape(), needed).ok());
  const EdgeSlots less_wrap{needed.wrap - 1, needed.other};
  const absl::Status refused = CheckSlots(c.shape(), less_wrap);
  ASSERT_TRUE(absl::IsInvalidArgument(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("slots on the wrap edge"));
  EXPECT_FALSE(CheckSlots(c.shape(), {needed.wrap, needed.other - 1}).ok());
  // The wrap edge fills if turns are long and there are two of them.
  if (c.slices >= std::max(2 * c.ranks, 3) && c.turn() >= c.ranks) {
    const Simulation step = StepOf(c, less_wrap);
    EXPECT_TRUE(step.deadlock || step.ticks > full) << step.ticks << " against " << full;
  }
  if (c.slices > 1 && c.ranks > 1 && c.turn() > 1) {
    const Simulation step = StepOf(c, {needed.wrap, 1});
    EXPECT_TRUE(step.deadlock || step.ticks > full) << step.ticks << " against " << full;
  }
}

TEST_P(AnyTest, RunsEveryUnitOnceInOrder) {
  const Case c = GetParam();
  const Simulation step = StepOf(c);
  using Key = std::tuple<Direction, int, int64_t, int>;
  std::map<Key, UnitSpan> spans;
  for (int rank = 0; rank < c.ranks; ++rank) {
    int64_t free_at = 0;
    for (const UnitSpan& span : step.ranks[rank]) {
      EXPECT_EQ(span.unit.slice % c.ranks, rank);
      EXPECT_GE(span.begin, free_at);
      free_at = span.end;
      const Key key{span.direction, span.unit.micro_batch, span.unit.slice, span.unit.layer};
      EXPECT_TRUE(spans.emplace(key, span).second);
    }
  }
  EXPECT_EQ(spans.size(), 2 * c.slices * c.turn());
  const auto ends = [&](Direction direction, const Unit& unit) {
    return spans.at({direction, unit.micro_batch, unit.slice, unit.layer}).end;
  };
  for (const auto& [key, span] : spans) {
    const auto [m, s, l] = span.unit;
    if (span.direction == Direction::kForward) {
      if (l > 0) {
        EXPECT_GE(span.begin, ends(Direction::kForward, {m, s, l - 1}));
      }
      if (s > 0) {
        EXPECT_GE(span.begin, ends(Direction::kForward, {m, s - 1, l}));
      }
    } else {
      EXPECT_GE(span.begin, ends(Direction::kForward, span.unit));
      if (l + 1 < c.layers) {
        EXPECT_GE(span.begin, ends(Direction::kBackward, {m, s, l + 1}));
      }
      if (s + 1 < c.slices) {
        EXPECT_GE(span.begin, ends(Direction::kBackward, {m, s + 1, l}));
      }
    }
  }
}

TEST(ScheduleTest, OneRankWithoutTheLastSlotHangs) {
  const Case c{5, 1, 3, 2};
  EXPECT_EQ(SlotsForFullSpeed(c.shape()).wrap, 7);
  const Simulation step = StepOf(c, {6, 6});
  EXPECT_TRUE(step.deadlock);
  EXPECT_EQ(step.ranks[0].size(), 6u);  // the first slice, and not a unit more
}

TEST(ScheduleTest, FewSlotsAreFirstSlowerThenHang) {
  const Case c{32, 4, 12, 1};
  const int needed = SlotsForFullSpeed(c.shape()).wrap;
  EXPECT_EQ(needed, 10);
  bool slower = false, hung = false;
  int64_t ticks = StepOf(c).ticks;
  for (int wrap = needed - 1; wrap >= 1; --wrap) {
    const Simulation step = StepOf(c, {wrap, 2});
    EXPECT_TRUE(step.deadlock || step.ticks >= ticks);
    EXPECT_FALSE(hung && !step.deadlock);
    if (!step.deadlock) ticks = step.ticks;
    slower |= !step.deadlock;
    hung |= step.deadlock;
  }
  EXPECT_TRUE(slower);
  EXPECT_TRUE(hung);
}

TEST(ScheduleTest, UsesTheSlotsItAsksFor) {
  const Simulation step = StepOf({32, 8, 24, 1});
  EXPECT_EQ(step.peak.wrap, 24 - 8 + 2);
  EXPECT_EQ(step.peak.other, 2);
}

// Every small shape, not only chosen ones.
TEST(ScheduleTest, TakesTheTimeOfTheFormulaForEveryShape) {
  int shapes = 0;
  for (int ranks = 1; ranks <= 6; ++ranks) {
    for (int64_t slices = 1; slices <= 3 * ranks + 1; ++slices) {
      for (int layers = 1; layers <= 8; ++layers) {
        const Case c{slices, ranks, layers, 1};
        ASSERT_EQ(StepOf(c).ticks, StepTicks(c.shape(), kForward, kBackward)) << c;
        ++shapes;
      }
    }
  }
  EXPECT_EQ(shapes, 552);
}

// The figures of docs: interleaving is what keeps eight ranks at work.
TEST(ScheduleTest, InterleavingRaisesTheBusyShare) {
  EXPECT_NEAR(StepOf({8, 8, 24, 1}).busy, 0.77, 0.005);
  EXPECT_NEAR(StepOf({32, 8, 24, 1}).busy, 0.93, 0.005);
  EXPECT_NEAR(StepOf({128, 8, 24, 1}).busy, 0.98, 0.005);
}

TEST(ScheduleTest, WavefrontsFollowEachOther) {
  const ScheduleShape shape{12, 4, 4, 1};
  SimulationOptions options{kForward, kBackward, 0, SlotsForFullSpeed(shape), 1};
  const int64_t one = Simulate(shape, options).ticks;
  options.wavefronts = 3;
  EXPECT_EQ(Simulate(shape, options).ticks, 3 * one);
}

TEST(ScheduleTest, HopsAddTheirTime) {
  const ScheduleShape shape{4, 4, 4, 1};
  const SimulationOptions options{10, 20, 3, {1000, 1000}, 1};
  // One turn: three hops on the way to the last rank, forward and backward.
  EXPECT_EQ(Simulate(shape, options).ticks, (4 + 3) * (10 + 20) + 2 * 3 * 3);
}

}  // namespace
}  // namespace mnemo
