// Many ranks train as one does: losses, norms and parameters, on every rank, whatever the mesh.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>

#include "src/core/status.h"
#include "src/job/trainer.h"
#include "src/model/tensor_split.h"
#include "src/parallel/thread_transport.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

struct Outcome {
  std::vector<v1::StepMetrics> steps;
  // Of the whole model; empty on all but the first rank of tp.
  std::vector<double> parameters;
  std::vector<double> gradients;  // of the last step, where every rank has all of them (zero: 0)
};

absl::Status Train(const v1::RunConfig& config, Ranks& ranks, int steps, Outcome& outcome) {
  MNEMO_ASSIGN_OR_RETURN(const StepShare share, ShareOfRank(ranks, config.train()));
  RandomSource source(config, share);
  MNEMO_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(config, source, ranks));
  for (int i = 0; i < steps; ++i) {
    MNEMO_RETURN_IF_ERROR(trainer->Step(outcome.steps.emplace_back()));
  }
  const ParameterSet whole = GatherParameters(trainer->spec(), trainer->parameters());
  if (whole.size() > 0) outcome.parameters = whole.flat().ToDoubles();
  if (config.parallel().zero() == 0) {
    const ParameterSet gradients = GatherParameters(trainer->spec(), trainer->gradients());
    if (gradients.size() > 0) outcome.gradients = gradients.flat().ToDoubles();
  }
  return absl::OkStatus();
}

std::vector<Outcome> TrainOn(const v1::RunConfig& config, const Mesh& mesh, int steps) {
  std::vector<Outcome> outcomes(mesh.size());
  const ThreadTransportOptions options{.delays = {std::chrono::microseconds(300), 5}};
  const absl::Status status =
      RunOnThreads(mesh.size(), options, [&](Transport& transport) -> absl::Status {
        EXPECT_EQ(transport.size(), mesh.size());
        MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, mesh));
        MNEMO_RETURN_IF_ERROR(Train(config, *ranks, steps, outcomes[transport.rank()]));
        return ranks->world().Barrier();
      });
  EXPECT_TRUE(status.ok()) << status;
  return outcomes;
}

// 6 slices of 4 tokens, of which 4 ranks get two or one; 8 sequences a step.
v1::RunConfig Config(v1::Block block) {
  v1::RunConfig config = TinyRun(block);
  config.mutable_execution()->set_precision(v1::F64);
  config.mutable_train()->set_slice(block == v1::MAC ? 8 : 4);
  config.mutable_train()->set_micro_batches(2);
  config.mutable_train()->set_accumulation(2);
  config.mutable_train()->set_sequences(2);
  return Effective(config);
}

void ExpectLike(const Outcome& one, const Outcome& other, double tolerance) {
  ASSERT_EQ(one.steps.size(), other.steps.size());
  for (size_t i = 0; i < one.steps.size(); ++i) {
    const v1::StepMetrics &a = one.steps[i], &b = other.steps[i];
    EXPECT_NEAR(a.loss(), b.loss(), tolerance);
    EXPECT_NEAR(a.gradient_norm(), b.gradient_norm(), tolerance * (1 + a.gradient_norm()));
    EXPECT_EQ(a.tokens(), b.tokens());
    ASSERT_EQ(a.layers_size(), b.layers_size());
    for (int l = 0; l < a.layers_size(); ++l) {
      EXPECT_NEAR(a.layers(l).theta(), b.layers(l).theta(), tolerance);
      EXPECT_NEAR(a.layers(l).state_norm(), b.layers(l).state_norm(), tolerance * 10);
      EXPECT_EQ(a.layers(l).clamp_hits(), b.layers(l).clamp_hits());
    }
  }
  if (other.parameters.empty()) return;
  ASSERT_EQ(one.parameters.size(), other.parameters.size());
  for (size_t i = 0; i < one.parameters.size(); ++i) {
    // AdamW divides by the root of the second moment, which magnifies the rounding of tiny
    // gradients.
    ASSERT_NEAR(one.parameters[i], other.parameters[i], 1e3 * tolerance) << i;
  }
}

class TrainerRanksTest : public testing::TestWithParam<v1::Block> {};

TEST_P(TrainerRanksTest, EveryMeshTrainsAsOneRank) {
  const v1::RunConfig config = Config(GetParam());
  Outcome alone;
  const auto ranks = Ranks::Alone();
  ASSERT_TRUE(Train(config, *ranks, 2, alone).ok());
  const int most = GetParam() == v1::MAC ? 3 : 4;
  for (const Mesh& mesh : {Mesh{1, 2, 1}, Mesh{1, most, 1}, Mesh{4, 1, 1}, Mesh{2, 2, 1},
                           Mesh{2, 1, 2}, Mesh{1, 2, 2}}) {
    SCOPED_TRACE(ToString(mesh));
    const std::vector<Outcome> outcomes = TrainOn(config, mesh, 2);
    int whole = 0;
    for (const Outcome& outcome : outcomes) {
      ExpectLike(alone, outcome, 1e-10);
      if (outcome.parameters.empty()) continue;
      EXPECT_EQ(outcome.parameters, outcomes[0].parameters) << "ranks differ";
      ++whole;
    }
    EXPECT_EQ(whole, mesh.dp * mesh.sp);
  }
}

// Before an optimizer can hide or magnify anything: dp alone, with sp, with tp, and the wavefronts
// cut otherwise.
TEST_P(TrainerRanksTest, EveryGradientIsThatOfOneRank) {
  v1::RunConfig config = Config(GetParam());
  config.mutable_parallel()->set_zero(0);
  Outcome alone;
  const auto ranks = Ranks::Alone();
  ASSERT_TRUE(Train(config, *ranks, 1, alone).ok());
  const double largest =
      std::ranges::max(alone.gradients, {}, [](double x) { return std::abs(x); });
  const auto expect_same = [&](const Outcome& other) {
    ASSERT_EQ(other.gradients.size(), alone.gradients.size());
    for (size_t i = 0; i < alone.gradients.size(); ++i) {
      ASSERT_NEAR(other.gradients[i], alone.gradients[i], 1e-10 * std::abs(largest)) << i;
    }
  };
  for (const Mesh& mesh : {Mesh{4, 1, 1}, Mesh{2, 2, 1}, Mesh{2, 1, 2}}) {
    SCOPED_TRACE(ToString(mesh));
    const std::vector<Outcome> outcomes = TrainOn(config, mesh, 1);
    for (int rank = 0; rank < mesh.size(); ++rank) {
      if (mesh.PositionOf(rank).tp == 0) expect_same(outcomes[rank]);
    }
  }
  for (const int accumulation : {1, 4}) {
    SCOPED_TRACE(accumulation);
    config.mutable_train()->set_accumulation(accumulation);
    config.mutable_train()->set_micro_batches(4 / accumulation);
    Outcome other;
    ASSERT_TRUE(Train(config, *ranks, 1, other).ok());
    expect_same(other);
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, TrainerRanksTest,
                         testing::Values(v1::LMM, v1::MAC, v1::MAG, v1::MAL, v1::TRANSFORMER),
                         [](const auto& info) { return v1::Block_Name(info.param); });

// Sharding the optimizer changes where it is computed and how its norm is summed, no more.
TEST(TrainerRanks, ShardedAndWholeOptimizersAgree) {
  const std::pair<v1::Block, Mesh> cases[] = {
      {v1::LMM, {1, 3, 1}}, {v1::MAG, {2, 2, 1}}, {v1::MAG, {2, 1, 2}}, {v1::MAC, {4, 1, 1}}};
  for (const auto& [block, mesh] : cases) {
    SCOPED_TRACE(ToString(mesh));
    v1::RunConfig config = Config(block);
    const std::vector<Outcome> sharded = TrainOn(config, mesh, 3);
    config.mutable_parallel()->set_zero(0);
    const std::vector<Outcome> whole = TrainOn(config, mesh, 3);
    for (size_t r = 0; r < sharded.size(); ++r) ExpectLike(sharded[r], whole[r], 1e-12);
  }
}

// A rank whose data fail tells the others, which end with its reason instead of waiting: for a
// carry, or inside a unit for a part.
void ExpectOneFailureEndsAll(const Mesh& mesh) {
  class Failing : public RandomSource {
   public:
    using RandomSource::RandomSource;
    absl::StatusOr<StepTokens> Load(int64_t step) override {
      if (step == 2) return absl::DataLossError("shard 7 is damaged");
      return RandomSource::Load(step);
    }
  };
  const v1::RunConfig config = Config(v1::LMM);
  std::mutex mutex;
  std::vector<std::string> messages;
  const absl::Status status =
      RunOnThreads(mesh.size(), {}, [&](Transport& transport) -> absl::Status {
        MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, mesh));
        MNEMO_ASSIGN_OR_RETURN(const StepShare share, ShareOfRank(*ranks, config.train()));
        RandomSource good(config, share);
        Failing bad(config, share);
        StepSource& source = ranks->rank() == 1 ? static_cast<StepSource&>(bad) : good;
        MNEMO_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(config, source, *ranks));
        absl::Status step;
        v1::StepMetrics metrics;
        while (step.ok() && trainer->step() < 5) step = trainer->Step(metrics);
        const std::lock_guard lock(mutex);
        messages.emplace_back(step.message());
        return step;
      });
  ASSERT_EQ(messages.size(), static_cast<size_t>(mesh.size()));
  for (const std::string& message : messages) {
    EXPECT_NE(message.find("shard 7 is damaged"), std::string::npos) << message;
  }
}

TEST(TrainerRanks, ARankThatFailsEndsAll) {
  ExpectOneFailureEndsAll({1, 3, 1});
  ExpectOneFailureEndsAll({1, 1, 2});
}

TEST(TrainerRanks, AMeshThatDoesNotSuitIsRefused) {
  const auto refusal = [](const v1::RunConfig& config, const Mesh& mesh) {
    std::string message;
    const absl::Status status =
        RunOnThreads(mesh.size(), {}, [&](Transport& transport) -> absl::Status {
          MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, mesh));
          RandomSource source(config);
          return Trainer::Create(config, source, *ranks).status();
        });
    return std::string(status.message());
  };
  const v1::RunConfig config = Config(v1::LMM);
  EXPECT_NE(refusal(config, {3, 1, 1}).find("3 replicas (dp) cannot share"), std::string::npos);
  EXPECT_NE(refusal(config, {1, 7, 1}).find("only 6 slices"), std::string::npos);
  EXPECT_NE(refusal(config, {1, 1, 4}).find("model.heads = 2"), std::string::npos);
  v1::RunConfig full = TinyRun(v1::TRANSFORMER);
  full.mutable_train()->set_slice(24);
  full.mutable_model()->mutable_attention()->set_window(0);
  EXPECT_NE(refusal(Effective(full), {1, 2, 1}).find("without a window"), std::string::npos);
}

}  // namespace
}  // namespace mnemo
