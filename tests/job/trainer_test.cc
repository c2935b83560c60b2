#include "src/job/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  std::vector<v1::StepMetrics> steps;
  std::vector<std::vector<double>> parameters;
};

Outcome Train(const v1::RunConfig& effective, int steps) {
  RandomSource source(effective);
  auto trainer = Trainer::Create(effective, source);
  EXPECT_TRUE(trainer.ok()) << trainer.status();
  Outcome outcome;
  for (int i = 0; i < steps; ++i) {
    const absl::Status status = (*trainer)->Step(outcome.steps.emplace_back());
    EXPECT_TRUE(status.ok()) << status;
  }
  for (const Tensor& value : (*trainer)->parameters().values()) {
    outcome.parameters.push_back(value.ToDoubles());
  }
  return outcome;
}

class TrainerBlockTest : public testing::TestWithParam<v1::Block> {};

TEST_P(TrainerBlockTest, TwoRunsAreBitwiseEqual) {
  v1::RunConfig config = TinyRun(GetParam());
  config.mutable_train()->set_sequences(2);
  const Outcome once = Train(Effective(config), 4), again = Train(Effective(config), 4);
  for (size_t i = 0; i < once.steps.size(); ++i) {
    EXPECT_EQ(once.steps[i].loss(), again.steps[i].loss());
    EXPECT_EQ(once.steps[i].gradient_norm(), again.steps[i].gradient_norm());
  }
  EXPECT_EQ(once.parameters, again.parameters);
}

// The same four sequences, cut into accumulation, micro-batches and sequences in every way, under
// every rematerialization: only the order of sums differs.
TEST_P(TrainerBlockTest, TheCutOfAStepDoesNotMatter) {
  v1::RunConfig config = TinyRun(GetParam());
  config.mutable_execution()->set_precision(v1::F64);
  config.mutable_train()->set_sequences(4);
  const Outcome whole = Train(Effective(config), 2);
  for (auto [accumulation, micro_batches] : {std::pair(4, 1), {1, 4}, {2, 2}, {1, 2}}) {
    v1::TrainConfig& train = *config.mutable_train();
    train.set_accumulation(accumulation);
    train.set_micro_batches(micro_batches);
    train.set_sequences(4 / accumulation / micro_batches);
    const Outcome cut = Train(Effective(config), 2);
    for (size_t i = 0; i < whole.steps.size(); ++i) {
      EXPECT_NEAR(cut.steps[i].loss(), whole.steps[i].loss(), 1e-10);
      EXPECT_NEAR(cut.steps[i].gradient_norm(), whole.steps[i].gradient_norm(), 1e-10);
      EXPECT_EQ(cut.steps[i].tokens(), whole.steps[i].tokens());
    }
    for (size_t k = 0; k < whole.parameters.size(); ++k) {
      for (size_t j = 0; j < whole.parameters[k].size(); ++j) {
        // AdamW divides by the root of the second moment, which magnifies the rounding of tiny
        // gradients.
        ASSERT_NEAR(cut.parameters[k][j], whole.parameters[k][j], 1e-7) << accumulation;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, TrainerBlockTest,
                         testing::Values(v1::LMM, v1::MAC, v1::MAG, v1::MAL, v1::TRANSFORMER),
                         [](const auto& info) { return v1::Block_Name(info.param); });

TEST(TrainerTest, RematerializationDoesNotChangeAStep) {
  v1::RunConfig config = TinyRun(v1::MAG);
  std::vector<Outcome> outcomes;
  for (v1::Rematerialize policy : {v1::KEEP_ALL, v1::UNITS, v1::SLICES}) {
    config.mutable_train()->set_rematerialize(policy);
    outcomes.push_back(Train(Effective(config), 3));
  }
  EXPECT_EQ(outcomes[0].parameters, outcomes[1].parameters);
  EXPECT_EQ(outcomes[0].parameters, outcomes[2].parameters);
}

TEST(TrainerTest, ReportsTheStep) {
  v1::RunConfig config = TinyRun(v1::LMM);
  config.mutable_train()->set_sequences(2);
  config.mutable_train()->set_accumulation(2);
  const v1::RunConfig effective = Effective(config);
  const Outcome outcome = Train(effective, 4);
  const OptimizerOptions options = MakeOptimizerOptions(effective.train());
  for (int i = 0; i < 4; ++i) {
    const v1::StepMetrics& metrics = outcome.steps[i];
    EXPECT_EQ(metrics.step(), i + 1);
    EXPECT_DOUBLE_EQ(metrics.learning_rate(), LearningRate(options, i + 1));
    EXPECT_GT(metrics.gradient_norm(), 0);
    EXPECT_EQ(metrics.tokens(), 4 * 24);
    EXPECT_GT(metrics.tokens_per_second(), 0);
    EXPECT_GT(metrics.seconds().forward(), 0);
    EXPECT_GT(metrics.seconds().backward(), 0);
    EXPECT_GT(metrics.peak_bytes(), 0);
    ASSERT_EQ(metrics.layers_size(), 2);
    for (const v1::LayerMetrics& layer : metrics.layers()) {
      const v1::GateConfig& gates = effective.model().memory().gates();
      EXPECT_GT(layer.theta(), 0);
      EXPECT_LT(layer.theta(), gates.theta_max());
      EXPECT_GT(layer.eta(), 0);
      EXPECT_LT(layer.eta(), gates.eta_max());
      EXPECT_GT(layer.alpha(), 0);
      EXPECT_LT(layer.alpha(), gates.alpha_max());
      EXPECT_GT(layer.state_norm(), 0);
    }
    EXPECT_GT(metrics.fused_size(), 0);
  }
  // Gate weights start at zero, so the first step sees theta_max sigmoid(0) (1 - eta), eta_max / 2.
  const v1::GateConfig& gates = effective.model().memory().gates();
  const double eta = gates.eta_max() / 2;
  EXPECT_NEAR(outcome.steps[0].layers(0).eta(), eta, 1e-6);
  EXPECT_NEAR(outcome.steps[0].layers(0).theta(), gates.theta_max() / 2 * (1 - eta), 1e-6);
  // Two heads: the first and the last alpha.
  EXPECT_NEAR(outcome.steps[0].layers(0).alpha(), (gates.alpha_first() + gates.alpha_last()) / 2,
              1e-9);
}

// One a token and head, and once, though the pass runs again for its gradients.
TEST(TrainerTest, CountsTheInnerGradientsAboveTheClamp) {
  v1::RunConfig config = TinyRun(v1::MAC);
  config.mutable_train()->set_accumulation(2);
  config.mutable_train()->set_rematerialize(v1::SLICES);
  for (const auto& [clamp, hits] : {std::pair(1e-6, 2 * 24 * 2), {1e6, 0}}) {
    config.mutable_model()->mutable_memory()->set_clamp(clamp);
    const Outcome outcome = Train(Effective(config), 1);
    ASSERT_EQ(outcome.steps[0].layers_size(), 2);
    for (const v1::LayerMetrics& layer : outcome.steps[0].layers()) {
      EXPECT_EQ(layer.clamp_hits(), hits) << clamp;
    }
  }
}

TEST(TrainerTest, TheFirstLossIsNearUniform) {
  const Outcome outcome = Train(Effective(TinyRun(v1::TRANSFORMER)), 1);
  EXPECT_NEAR(outcome.steps[0].loss(), std::log(kTinyVocabulary), 1.0);
}

TEST(TrainerTest, LearnsOneSequenceByHeart) {
  // One step's tokens over and over.
  class Same : public RandomSource {
   public:
    using RandomSource::RandomSource;
    absl::StatusOr<StepTokens> Load(int64_t) override { return RandomSource::Load(1); }
  };
  const v1::RunConfig effective = Effective(TinyRun(v1::MAC));
  Same source(effective);
  auto trainer = Trainer::Create(effective, source);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  double first = 0, last = 0;
  for (int step = 0; step < 60; ++step) {
    v1::StepMetrics metrics;
    const absl::Status status = (*trainer)->Step(metrics, false);
    ASSERT_TRUE(status.ok()) << status;
    if (step == 0) first = metrics.loss();
    last = metrics.loss();
  }
  EXPECT_LT(last, first / 3);
}

TEST(TrainerTest, StopsWhenValuesStayNonFinite) {
  v1::RunConfig config = TinyRun();
  config.mutable_train()->mutable_optimizer()->set_max_bad_steps(3);
  const v1::RunConfig effective = Effective(config);
  RandomSource source(effective);
  auto trainer = Trainer::Create(effective, source);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  v1::StepMetrics metrics;
  ASSERT_TRUE((*trainer)->Step(metrics).ok());
  ParameterSet& parameters = (*trainer)->parameters();
  const int poisoned = parameters.Find("layers.1.mlp.up.weight");
  ASSERT_GE(poisoned, 0);
  parameters[poisoned].data<float>()[5] = std::numeric_limits<float>::infinity();
  const std::vector<double> before = parameters.Get("embedding.weight").ToDoubles();
  for (int i = 1; i <= 2; ++i) {
    const absl::Status status = (*trainer)->Step(metrics);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(metrics.skipped());
    EXPECT_EQ(metrics.skipped_steps(), i);
  }
  const absl::Status end = (*trainer)->Step(metrics);
  ASSERT_EQ(end.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(end.message()), HasSubstr("step 4"));
  EXPECT_THAT(std::string(end.message()), HasSubstr("layers.1.mlp.up.weight"));
  // The step that ended it is reported like those before.
  EXPECT_EQ(metrics.step(), 4);
  EXPECT_TRUE(metrics.skipped());
  EXPECT_EQ(metrics.skipped_steps(), 3);
  EXPECT_FALSE(std::isfinite(metrics.gradient_norm()));
  EXPECT_GT(metrics.learning_rate(), 0);
  EXPECT_GT(metrics.tokens_per_second(), 0);
  EXPECT_EQ(parameters.Get("embedding.weight").ToDoubles(), before);
}

// What a save that copies beside a step relies on.
TEST(TrainerTest, BeforeUpdateIsCalledWhileTheStateIsThatOfTheStepBefore) {
  const v1::RunConfig effective = Effective(TinyRun());
  RandomSource source(effective);
  auto trainer = Trainer::Create(effective, source);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  const auto state = [&] {
    std::vector<std::vector<double>> values = {(*trainer)->parameters().flat().ToDoubles()};
    for (const StateTensor& moment : (*trainer)->optimizer().State()) {
      values.push_back(moment.tensor.ToDoubles());
    }
    return values;
  };
  v1::StepMetrics metrics;
  ASSERT_TRUE((*trainer)->Step(metrics).ok());
  const auto before = state();
  int calls = 0;
  (*trainer)->BeforeUpdate([&] {
    ++calls;
    EXPECT_EQ(state(), before);
    const std::vector<double> gradients = (*trainer)->gradients().flat().ToDoubles();
    EXPECT_NE(gradients, std::vector<double>(gradients.size(), 0)) << "the backward pass is done";
    return absl::OkStatus();
  });
  ASSERT_TRUE((*trainer)->Step(metrics).ok());
  EXPECT_EQ(calls, 1);
  const auto after = state();
  EXPECT_NE(after, before);
  (*trainer)->BeforeUpdate([] { return absl::InternalError("the copy failed"); });
  EXPECT_EQ((*trainer)->Step(metrics).message(), "the copy failed");
  EXPECT_EQ(state(), after);
}

TEST(TrainerTest, AStepWithoutTargetsIsAnError) {
  class Masked : public StepSource {
   public:
    absl::StatusOr<StepTokens> Load(int64_t) override { return StepTokens(); }
  } source;
  auto trainer = Trainer::Create(Effective(TinyRun()), source);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  v1::StepMetrics metrics;
  const absl::Status status = (*trainer)->Step(metrics);
  EXPECT_THAT(std::string(status.message()), HasSubstr("step 1 has no targets"));
}

}  // namespace
}  // namespace mnemo
