// Twenty steps on all axes at once, sp = 4, dp = 2, tp = 2, against one rank: losses and gradient
// norms of every step, and the parameters at the end, on every rank; as threads, or as processes.
#include <gtest/gtest.h>

#include "src/core/status.h"
#include "src/job/trainer.h"
#include "src/model/tensor_split.h"
#include "tests/job/job_test_util.h"
#include "tests/parallel/rank_worlds.h"

namespace mnemo {
namespace {

constexpr int kSteps = 20;
constexpr Mesh kMesh{.dp = 2, .sp = 4, .tp = 2};
// f64 rounding, magnified by twenty steps of AdamW, which divides by the root of the second moment.
constexpr double kTolerance = 1e-8;

// 6 slices, or 4 segments of MAC: 4 ranks get two or one. The 8 sequences of a step are 2
// wavefronts of 2 micro-batches: each replica has one wavefront.
v1::RunConfig Config(v1::Block block) {
  v1::RunConfig config = TinyRun(block);
  config.mutable_execution()->set_precision(v1::F64);
  v1::TrainConfig& train = *config.mutable_train();
  train.set_steps(kSteps);
  if (block == v1::MAC) train.set_sequence_length(32);
  train.set_slice(block == v1::MAC ? 8 : 4);
  train.set_micro_batches(2);
  train.set_accumulation(2);
  train.set_sequences(2);
  return Effective(config);
}

struct Trained {
  std::vector<double> losses, norms;
  ParameterSet parameters;  // this rank's part
};

absl::Status Train(const v1::RunConfig& config, Ranks& ranks, Trained& run) {
  MNEMO_ASSIGN_OR_RETURN(const StepShare share, ShareOfRank(ranks, config.train()));
  RandomSource source(config, share);
  MNEMO_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(config, source, ranks));
  for (int step = 0; step < kSteps; ++step) {
    v1::StepMetrics metrics;
    MNEMO_RETURN_IF_ERROR(trainer->Step(metrics, step % 5 == 0));
    run.losses.push_back(metrics.loss());
    run.norms.push_back(metrics.gradient_norm());
  }
  run.parameters = trainer->parameters();
  MNEMO_RETURN_IF_ERROR(trainer->Drain());
  return ranks.world().Barrier();
}

// What one rank alone trains. The first rank does it; the others get it.
absl::Status TrainAlone(const v1::RunConfig& config, Communicator& world, Trained& alone) {
  alone.losses.resize(kSteps);
  alone.norms.resize(kSteps);
  alone.parameters = ParameterSet::Zeros(MakeSpec(config.model()), DType::kF64);
  if (world.rank() == 0) {
    Trained run;
    const auto ranks = Ranks::Alone();
    MNEMO_RETURN_IF_ERROR(Train(config, *ranks, run));
    alone = std::move(run);
  }
  for (std::vector<double>* numbers : {&alone.losses, &alone.norms}) {
    const Tensor all = Tensor::FromHost(*numbers, {kSteps}, DType::kF64);
    MNEMO_RETURN_IF_ERROR(world.Broadcast(0, all));
    *numbers = all.ToDoubles();
  }
  return world.Broadcast(0, alone.parameters.flat());
}

double LargestDifference(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.ToDoubles(), y = b.ToDoubles();
  double largest = 0;
  for (size_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::abs(x[i] - y[i]));
  return largest;
}

// The bits of what ranks hold alike.
void ExpectSameBits(Communicator& group, const Tensor& x, const std::string& what) {
  const std::string_view mine(static_cast<const char*>(x.raw()), x.bytes());
  const auto all = group.AllGatherStrings(mine);
  ASSERT_OK(all.status());
  for (const std::string& other : *all) EXPECT_TRUE(other == mine) << what;
}

class MeshTraining : public testing::TestWithParam<v1::Block> {};

TEST_P(MeshTraining, TwentyStepsAreThoseOfOneRank) {
  const v1::RunConfig config = Config(GetParam());
  OnWorldOf(kMesh.size(), [&](Transport& transport) {
    ASSERT_EQ(transport.size(), 16);
    const auto ranks = Ranks::Create(transport, kMesh, kPatience).value();
    Trained alone, run;
    ASSERT_OK(TrainAlone(config, ranks->world(), alone));
    ASSERT_OK(Train(config, *ranks, run));
    ASSERT_EQ(run.losses.size(), static_cast<size_t>(kSteps));
    for (int step = 0; step < kSteps; ++step) {
      EXPECT_NEAR(run.losses[step], alone.losses[step], kTolerance) << "step " << step + 1;
      EXPECT_NEAR(run.norms[step], alone.norms[step], kTolerance) << "step " << step + 1;
    }
    EXPECT_LT(run.losses.back(), run.losses.front() - 0.1);  // it learned something meanwhile
    ExpectSameBits(ranks->replicas(), run.parameters.flat(), "all parameters");
    for (size_t i = 0; i < run.parameters.size(); ++i) {
      const ParameterInfo& info = run.parameters.info(i);
      const Tensor expected = PartOf(alone.parameters[i], info);
      EXPECT_LE(LargestDifference(run.parameters[i], expected), kTolerance) << info.name;
      if (info.split < 0) ExpectSameBits(ranks->parts(), run.parameters[i], info.name);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Blocks, MeshTraining,
                         testing::Values(v1::LMM, v1::MAC, v1::MAG, v1::MAL, v1::TRANSFORMER),
                         [](const auto& info) { return v1::Block_Name(info.param); });

}  // namespace
}  // namespace mnemo
