// The plan against what runs really take.

#include <gtest/gtest.h>

#include <tuple>

#include "src/ckpt/state_snapshot.h"
#include "src/core/backend.h"
#include "src/core/status.h"
#include "src/job/trainer.h"
#include "src/job/training_checkpoint.h"
#include "src/model/parameters.h"
#include "src/model/plan_inputs.h"
#include "src/parallel/ranks.h"
#include "src/parallel/thread_transport.h"
#include "tests/data/data_test_util.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

v1::RunConfig Sized(v1::Block block, v1::Rematerialize policy) {
  v1::RunConfig config = TinyRun(block);
  config.mutable_model()->set_width(32);
  config.mutable_model()->set_layers(3);
  v1::TrainConfig& train = *config.mutable_train();
  train.set_sequence_length(96);
  train.set_slice(24);
  train.set_sequences(2);
  train.set_micro_batches(2);
  train.set_accumulation(2);
  train.set_rematerialize(policy);
  return config;
}

void ExpectPlanned(const v1::RunConfig& effective) {
  RandomSource source(effective);
  auto trainer = Trainer::Create(effective, source);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  v1::StepMetrics metrics;
  for (int step = 0; step < 2; ++step) ASSERT_TRUE((*trainer)->Step(metrics).ok());
  const v1::MemoryEstimate memory = PlanRun(effective).value().memory();
  const double planned = static_cast<double>(TensorBytes(memory));
  const double actual = static_cast<double>((*trainer)->peak_bytes());
  EXPECT_NEAR(planned / actual, 1, 0.1) << memory.DebugString();
}

class PlanMemoryTest : public testing::TestWithParam<std::tuple<v1::Block, v1::Rematerialize>> {};

TEST_P(PlanMemoryTest, IsWithinTenPercentOfThePeak) {
  ExpectPlanned(Effective(Sized(std::get<0>(GetParam()), std::get<1>(GetParam()))));
}

INSTANTIATE_TEST_SUITE_P(All, PlanMemoryTest,
                         testing::Combine(testing::Values(v1::LMM, v1::MAC, v1::MAG, v1::MAL,
                                                          v1::TRANSFORMER),
                                          testing::Values(v1::KEEP_ALL, v1::UNITS, v1::SLICES)),
                         [](const auto& info) {
                           return v1::Block_Name(std::get<0>(info.param)) + "_" +
                                  v1::Rematerialize_Name(std::get<1>(info.param));
                         });

// The copy of a save that is being written while the next step is taken.
TEST(PlanMemoryTest, HoldsTheCopyOfASave) {
  v1::RunConfig config = Sized(v1::MAG, v1::SLICES);
  config.mutable_model()->set_width(64);
  const int64_t without = TensorBytes(PlanRun(Effective(config)).value().memory());
  config.mutable_train()->set_checkpoint_every(1);
  const v1::RunConfig effective = Effective(config);
  const v1::MemoryEstimate memory = PlanRun(effective).value().memory();
  EXPECT_EQ(TensorBytes(memory), without + memory.snapshot());
  EXPECT_EQ(memory.snapshot(), memory.weights() + memory.optimizer());
  RandomSource source(effective);
  auto trainer = Trainer::Create(effective, source);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  v1::StepMetrics metrics;
  ASSERT_TRUE((*trainer)->Step(metrics).ok());
  const int64_t before = metrics.peak_bytes();
  StateSnapshot snapshot;
  ASSERT_TRUE(snapshot.Take(CollectTraining({}, **trainer).pieces).ok());
  ASSERT_TRUE((*trainer)->Step(metrics).ok());
  EXPECT_NEAR(
      static_cast<double>(metrics.peak_bytes() - before) / static_cast<double>(memory.snapshot()),
      1, 0.02);
  EXPECT_NEAR(static_cast<double>(TensorBytes(memory)) / static_cast<double>(metrics.peak_bytes()),
              1, 0.1);
}

// What tensors take while a save is written behind the training: the copy and next to nothing
// beside it, on every rank.
TEST(PlanMemoryTest, WritingACopyTakesNoMoreThanThePlanSays) {
  v1::RunConfig config = Sized(v1::MAG, v1::SLICES);
  config.mutable_model()->set_width(256);
  config.mutable_train()->set_checkpoint_every(1);
  config.mutable_parallel()->set_dp(2);
  const v1::RunConfig effective = Effective(config);
  const int64_t planned = PlanRun(effective, 2).value().memory().snapshot();
  const TestDirectory directory;
  std::vector<StateSnapshot> snapshots(2);
  const absl::Status status = RunOnThreads(2, {}, [&](Transport& transport) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, {2, 1, 1}));
    MNEMO_ASSIGN_OR_RETURN(const StepShare share, ShareOfRank(*ranks, effective.train()));
    RandomSource source(effective, share);
    MNEMO_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(effective, source, *ranks));
    v1::StepMetrics metrics;
    MNEMO_RETURN_IF_ERROR(trainer->Step(metrics));
    SavedTraining saved = CollectTraining({}, *trainer);
    StateSnapshot& snapshot = snapshots[ranks->rank()];
    MNEMO_ASSIGN_OR_RETURN(saved.pieces, snapshot.Take(saved.pieces));
    EXPECT_LE(snapshot.bytes(), planned + planned / 50);
    EXPECT_GE(snapshot.bytes(), planned - planned / 50);
    MNEMO_RETURN_IF_ERROR(ranks->world().Barrier());
    const int64_t before = Backend::For({}).Memory().current_bytes;
    if (ranks->first()) Backend::For({}).ResetPeakMemory();
    MNEMO_RETURN_IF_ERROR(ranks->world().Barrier());
    MNEMO_RETURN_IF_ERROR(
        WriteTraining(FileSystem::Posix(), directory / "checkpoints", saved, *ranks, ranks->world())
            .status());
    EXPECT_LE(Backend::For({}).Memory().peak_bytes - before, planned / 50);
    return ranks->world().Barrier();
  });
  EXPECT_TRUE(status.ok()) << status;
}

TEST(PlanMemoryTest, MixedPrecisionIsWithinTenPercentOfThePeak) {
  for (const auto& [block, policy] :
       {std::pair(v1::LMM, v1::UNITS), std::pair(v1::MAC, v1::SLICES),
        std::pair(v1::MAG, v1::UNITS), std::pair(v1::TRANSFORMER, v1::KEEP_ALL)}) {
    SCOPED_TRACE(v1::Block_Name(block));
    v1::RunConfig config = Sized(block, policy);
    config.mutable_execution()->set_precision(v1::BF16);
    ExpectPlanned(Effective(config));
  }
}

TEST(PlanMemoryTest, MixedPrecisionKeepsHalfAndCopiesWeights) {
  v1::RunConfig config = Sized(v1::MAG, v1::UNITS);
  const v1::MemoryEstimate single = PlanRun(Effective(config)).value().memory();
  config.mutable_execution()->set_precision(v1::BF16);
  const v1::RunConfig effective = Effective(config);
  const v1::MemoryEstimate mixed = PlanRun(effective).value().memory();
  EXPECT_EQ(mixed.weights(), single.weights());
  EXPECT_EQ(mixed.gradients(), single.gradients());
  EXPECT_EQ(mixed.optimizer(), single.optimizer());
  EXPECT_EQ(2 * mixed.kept_inputs(), single.kept_inputs());
  EXPECT_EQ(single.compute_copies(), 0);
  EXPECT_EQ(mixed.compute_copies(), 2 * CountNarrowParameters(MakeSpec(effective.model())));
  // The memory's state stays f32, the rest of a carry does not.
  EXPECT_LT(mixed.carry_bytes_per_hop(), single.carry_bytes_per_hop());
  EXPECT_GT(2 * mixed.carry_bytes_per_hop(), single.carry_bytes_per_hop());
}

// Both ranks are threads of this process, whose peak is that of the two together: they are at the
// same point, as they wait for each other several times a unit.
TEST(PlanMemoryTest, APartTakesWhatIsPlannedForIt) {
  for (const v1::Block block : {v1::LMM, v1::MAC}) {
    v1::RunConfig config = Sized(block, v1::UNITS);
    config.mutable_parallel()->set_tp(2);
    const v1::RunConfig effective = Effective(config);
    const absl::Status status = RunOnThreads(2, {}, [&](Transport& transport) -> absl::Status {
      MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, {1, 1, 2}));
      RandomSource source(effective);
      MNEMO_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(effective, source, *ranks));
      v1::StepMetrics metrics;
      for (int step = 0; step < 2; ++step) MNEMO_RETURN_IF_ERROR(trainer->Step(metrics));
      const v1::MemoryEstimate memory = PlanRun(effective, 2).value().memory();
      const double planned = 2 * static_cast<double>(memory.total() - memory.process());
      EXPECT_NEAR(planned / static_cast<double>(trainer->peak_bytes()), 1, 0.1)
          << memory.DebugString();
      return ranks->world().Barrier();
    });
    EXPECT_TRUE(status.ok()) << status;
  }
}

TEST(PlanMemoryTest, OneSliceAndAWindowLongerThanASlice) {
  v1::RunConfig config = Sized(v1::MAG, v1::UNITS);
  config.mutable_model()->mutable_attention()->set_window(60);
  ExpectPlanned(Effective(config));
  config.mutable_train()->set_slice(96);
  ExpectPlanned(Effective(config));
}

TEST(PlanMemoryTest, IsLinearInTheNumberOfSlices) {
  v1::RunConfig config = Sized(v1::LMM, v1::UNITS);
  const v1::MemoryEstimate one = PlanRun(Effective(config)).value().memory();
  config.mutable_train()->set_sequence_length(960);
  const v1::MemoryEstimate ten = PlanRun(Effective(config)).value().memory();
  EXPECT_EQ(ten.kept_inputs(), 10 * one.kept_inputs());
  EXPECT_EQ(ten.workspace(), one.workspace());
}

}  // namespace
}  // namespace mnemo
