// What real steps on four ranks do, by their traces and by what passes between them.
#include <gtest/gtest.h>

#include <iostream>

#include "src/core/status.h"
#include "src/job/trainer.h"
#include "src/model/plan_inputs.h"
#include "src/parallel/simulate.h"
#include "src/parallel/thread_transport.h"
#include "src/parallel/trace.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

v1::RunConfig Config(v1::Block block, int64_t slices, int accumulation) {
  v1::RunConfig config = TinyRun(block);
  config.mutable_train()->set_slice(8);
  config.mutable_train()->set_sequence_length(8 * slices);
  config.mutable_train()->set_micro_batches(accumulation > 1 ? 2 : 1);
  config.mutable_train()->set_accumulation(accumulation);
  config.mutable_parallel()->set_sp(4);
  return Effective(config);
}

// Four ranks on fewer cores cannot be as busy as predicted; what they did must be in order all the
// same.
TEST(TrainerTraceTest, RunsTheScheduleOfThePlan) {
  const v1::RunConfig config = Config(v1::MAG, 7, 2);
  const v1::Plan plan = PlanRun(config, 4).value();
  ASSERT_EQ(MeshOf(plan), (Mesh{1, 4, 1}));
  const absl::Status status = RunOnThreads(4, {}, [&](Transport& transport) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, MeshOf(plan)));
    MNEMO_ASSIGN_OR_RETURN(const StepShare share, ShareOfRank(*ranks, config.train()));
    RandomSource source(config, share);
    MNEMO_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(config, source, *ranks));
    v1::StepMetrics metrics;
    for (int step = 0; step < 2; ++step) {
      MNEMO_RETURN_IF_ERROR(trainer->Step(metrics));
      MNEMO_ASSIGN_OR_RETURN(const auto traces, GatherTraces(ranks->world(), trainer->trace()));
      // Two wavefronts of forward and backward units.
      EXPECT_EQ(traces[0].size(), static_cast<size_t>(2 * 2 * plan.step().units()));
      MNEMO_RETURN_IF_ERROR(CheckTraces(ShapeOf(plan), traces));
      const double busy = BusyFraction(traces);
      EXPECT_GT(busy, 0);
      EXPECT_LE(busy, 1);
      if (ranks->first()) {
        std::cout << "busy " << 100 * busy << " %, predicted " << 100 * plan.schedule().busy()
                  << " %\n";
      }
    }
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
}

// The bytes of the hand-offs of a forward and a backward pass, over their number; of all ranks.
double BytesPerHop(const v1::RunConfig& config) {
  const ModelSpec spec = MakeSpec(config.model());
  const v1::Plan plan = PlanRun(config, 4).value();
  double per_hop = 0;
  const absl::Status status = RunOnThreads(4, {}, [&](Transport& transport) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, MeshOf(plan)));
    MNEMO_ASSIGN_OR_RETURN(const StepShare share, ShareOfRank(*ranks, config.train()));
    RandomSource source(config, share);
    MNEMO_ASSIGN_OR_RETURN(const StepTokens tokens, source.Load(1));
    const ParameterSet parameters = ParameterSet::Initialize(spec, 1, DType::kF32);
    ParameterSet gradients = ParameterSet::Zeros(spec, DType::kF32);
    UnitRunner runner(spec, parameters, *tokens.wavefronts[0], spec.layers, {}, &gradients);
    const ScheduleShape shape = ShapeOf(plan);
    const auto relay = ranks->MakeRelay(shape);
    MNEMO_RETURN_IF_ERROR(RunForward(shape, ranks->position().sp, *relay, runner));
    MNEMO_RETURN_IF_ERROR(RunBackward(shape, ranks->position().sp, *relay, runner));
    MNEMO_RETURN_IF_ERROR(relay->Drain());
    std::vector<double> sums(2);
    for (const Direction direction : {Direction::kForward, Direction::kBackward}) {
      sums[0] += static_cast<double>(relay->counters(direction).sent.bytes);
      sums[1] += static_cast<double>(relay->counters(direction).sent.messages);
    }
    MNEMO_RETURN_IF_ERROR(ranks->world().AllReduceSum(std::span<double>(sums)));
    EXPECT_EQ(sums[1],
              2.0 * static_cast<double>((shape.slices - 1) * shape.layers * shape.micro_batches));
    if (ranks->first()) per_hop = sums[0] / sums[1];
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return per_hop;
}

class HopTest : public testing::TestWithParam<v1::Block> {};

TEST_P(HopTest, BytesAreThoseOfACarryWhateverTheLength) {
  const v1::RunConfig config = Config(GetParam(), 5, 1);
  const double bytes = BytesPerHop(config);
  EXPECT_EQ(BytesPerHop(Config(GetParam(), 10, 1)), bytes);
  const auto carry = static_cast<double>(PlanRun(config, 4).value().memory().carry_bytes_per_hop());
  EXPECT_GE(bytes, carry);
  EXPECT_LE(bytes, carry + 1024);  // what says which tensors they are, and padding
}

INSTANTIATE_TEST_SUITE_P(Blocks, HopTest,
                         testing::Values(v1::LMM, v1::MAC, v1::MAG, v1::MAL, v1::TRANSFORMER),
                         [](const auto& info) { return v1::Block_Name(info.param); });

}  // namespace
}  // namespace mnemo
