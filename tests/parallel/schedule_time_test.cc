// The schedule over real ranks takes the time that the simulation says, and the memory that the
// plan says.
#include <gtest/gtest.h>

#include <iostream>
#include <numeric>
#include <thread>

#include "src/core/status.h"
#include "src/parallel/relay.h"
#include "src/parallel/simulate.h"
#include "src/parallel/trace.h"
#include "tests/parallel/rank_worlds.h"

namespace mnemo {
namespace {

constexpr int kForwardMs = 8, kBackwardMs = 16;

// Units that take a given time without using a core, so that more ranks than cores do not disturb
// each other.
class Sleeper : public UnitBody {
 public:
  Sleeper(bool sleeps, int64_t carry) : sleeps_(sleeps), carry_(carry) {}
  std::vector<Tensor> Forward(const Unit&, std::vector<Tensor>) override {
    return Work(kForwardMs);
  }
  std::vector<Tensor> Backward(const Unit&, std::vector<Tensor>) override {
    return Work(kBackwardMs);
  }

 private:
  std::vector<Tensor> Work(int ms) {
    if (sleeps_) std::this_thread::sleep_for(std::chrono::milliseconds(ms));
    return {Tensor::Full({carry_}, 1, DType::kF64)};
  }

  bool sleeps_;
  int64_t carry_;
};

std::unique_ptr<Relay> MakeRelay(Transport& t, const ScheduleShape& shape) {
  TransportRelayOptions options;
  options.shape = shape;
  options.ranks.resize(t.size());
  std::iota(options.ranks.begin(), options.ranks.end(), 0);
  options.slots = SlotsForFullSpeed(shape);
  options.timeout = kPatience;
  return MakeTransportRelay(t, options);
}

absl::StatusOr<std::vector<std::vector<UnitSpan>>> Step(Transport& t, Communicator& all,
                                                        const ScheduleShape& shape, Relay& relay) {
  Sleeper body(true, 100);
  std::vector<UnitSpan> trace;
  MNEMO_RETURN_IF_ERROR(all.Barrier());
  MNEMO_RETURN_IF_ERROR(RunForward(shape, t.rank(), relay, body, &trace));
  MNEMO_RETURN_IF_ERROR(RunBackward(shape, t.rank(), relay, body, &trace));
  MNEMO_RETURN_IF_ERROR(relay.Drain());
  return GatherTraces(all, trace);
}

int64_t Nanoseconds(const std::vector<std::vector<UnitSpan>>& ranks) {
  int64_t begin = INT64_MAX, end = 0;
  for (const std::vector<UnitSpan>& spans : ranks) {
    begin = std::min(begin, spans.front().begin);
    end = std::max(end, spans.back().end);
  }
  return end - begin;
}

// Deep and shallow turns. A step can take no less than predicted; hand-offs, which here are held
// back by up to 2 ms each, and the machine make it longer: by a quarter at most, in the best of
// some steps, of which a busy machine takes more.
TEST(ScheduleTimeTest, TakesTheTimeOfTheSimulation) {
  ForEachWorld(
      [](Transport& t) {
        const auto all = MakeWorld(t);
        for (const ScheduleShape& shape : {ScheduleShape{2L * t.size(), t.size(), t.size() + 1, 1},
                                           ScheduleShape{2L * t.size() + 1, t.size(), 1, 1}}) {
          const Simulation predicted =
              Simulate(shape, {kForwardMs, kBackwardMs, 0, SlotsForFullSpeed(shape), 1});
          const auto relay = MakeRelay(t, shape);
          double longer = 1e9, busy = 0;
          for (int attempt = 0; attempt < 30 && longer > 1.25; ++attempt) {
            const auto ranks = Step(t, *all, shape, *relay);
            ASSERT_OK(ranks.status());
            EXPECT_OK(CheckTraces(shape, *ranks));
            const double ratio = static_cast<double>(Nanoseconds(*ranks)) /
                                 (1e6 * static_cast<double>(predicted.ticks));
            EXPECT_GE(ratio, 1);
            if (ratio > longer) continue;
            longer = ratio;
            busy = BusyFraction(*ranks);
          }
          EXPECT_LE(longer, 1.25);
          EXPECT_NEAR(busy / predicted.busy, 1, 0.25);
          if (t.rank() > 0) continue;
          std::cout << "S " << shape.slices << ", R " << shape.ranks << ", L " << shape.layers
                    << ": predicted " << predicted.ticks << " ms, busy " << 100 * predicted.busy
                    << " %; real " << longer << " x as long, busy " << 100 * busy << " %\n";
        }
      },
      2);
}

// Buffers are as many as the plan counts, each as long as a message, after however many steps.
TEST(ScheduleTimeTest, TheRelayHoldsTheBuffersThatThePlanCounts) {
  ForEachWorld(
      [](Transport& t) {
        for (const int64_t slices : {1L, 2L, t.size() - 1L, int64_t{t.size()}, t.size() + 1L,
                                     3L * t.size(), 3L * t.size() + 1}) {
          const ScheduleShape shape{slices, t.size(), 5, 2};
          const auto relay = MakeRelay(t, shape);
          Sleeper body(false, 1 << 12);
          for (int pass = 0; pass < 3; ++pass) {
            ASSERT_OK(RunForward(shape, t.rank(), *relay, body));
            ASSERT_OK(RunBackward(shape, t.rank(), *relay, body));
          }
          ASSERT_OK(relay->Drain());
          int64_t held = 0, message = 0;
          for (const Direction direction : {Direction::kForward, Direction::kBackward}) {
            const RelayCounters counters = relay->counters(direction);
            for (const EdgeCounters& end : {counters.sent, counters.received}) {
              held += end.buffer_bytes;
              if (end.messages > 0) message = end.bytes / end.messages;
            }
          }
          const int64_t planned = RelayBuffers(shape, SlotsForFullSpeed(shape), t.rank());
          EXPECT_EQ(held, planned * message) << slices << " slices";
          EXPECT_LE(message - 8 * (1 << 12), message > 0 ? 256 : 0);
        }
      },
      2);
}

TEST(CheckTracesTest, FindsWhatIsOutOfOrder) {
  const ScheduleShape shape{5, 2, 2, 1};
  SimulationOptions options;
  options.slots = SlotsForFullSpeed(shape);
  options.wavefronts = 2;
  const std::vector<std::vector<UnitSpan>> good = Simulate(shape, options).ranks;
  EXPECT_OK(CheckTraces(shape, good));
  auto bad = good;
  std::swap(bad[0][0].unit, bad[0][1].unit);
  EXPECT_FALSE(CheckTraces(shape, bad).ok()) << "units exchanged";
  bad = good;
  bad[1].pop_back();
  EXPECT_FALSE(CheckTraces(shape, bad).ok()) << "a unit left out";
  bad = good;
  for (UnitSpan& span : bad[1]) --span.begin, --span.end;
  EXPECT_FALSE(CheckTraces(shape, bad).ok()) << "before its input";
  bad = good;
  --bad[0][1].begin;
  EXPECT_FALSE(CheckTraces(shape, bad).ok()) << "two at once";
  EXPECT_FALSE(CheckTraces(shape, {}).ok());
}

}  // namespace
}  // namespace mnemo
