// Training in mixed precision against training in f32: the same loss, and the same bits whenever it
// is run again.
#include <gtest/gtest.h>

#include <numeric>

#include "src/core/random.h"
#include "src/job/trainer.h"
#include "src/model/execution.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

constexpr int kSteps = 200;

// Sequences with a rule that a model can learn: mostly, a token follows from the one before it.
class RuleSource : public StepSource {
 public:
  explicit RuleSource(const v1::RunConfig& effective)
      : config_(effective), spec_(MakeSpec(effective.model())) {}

  absl::StatusOr<StepTokens> Load(int64_t step) override {
    const v1::TrainConfig& train = config_.train();
    SliceBatch batch;
    batch.sequences = train.sequences();
    batch.length = train.sequence_length();
    for (int64_t b = 0; b < batch.sequences; ++b) {
      const RandomStream random(3, step, "sequence " + std::to_string(b));
      int32_t token = 1;
      for (int64_t t = 0; t < batch.length; ++t) {
        batch.tokens.push_back(token);
        const bool follows = random.Below(2 * t, 10) > 0;
        token = follows ? (3 * token + 1) % kTinyVocabulary
                        : static_cast<int32_t>(random.Below(2 * t + 1, kTinyVocabulary));
        batch.targets.push_back(token);
      }
    }
    StepTokens result;
    result.tokens = result.valid_targets = batch.sequences * batch.length;
    result.wavefronts.push_back(MakeTokenSource(
        {CutIntoSlices(spec_, batch, train.slice(), ComputeDType(config_.execution()),
                       ComputeDevice(config_.execution()))}));
    return result;
  }

 private:
  const v1::RunConfig config_;
  const ModelSpec spec_;
};

v1::RunConfig Config(v1::Block block, v1::Precision precision) {
  v1::RunConfig config = TinyRun(block);
  config.mutable_train()->set_steps(kSteps);
  config.mutable_train()->set_sequences(4);
  config.mutable_execution()->set_precision(precision);
  return Effective(config);
}

struct Trained {
  std::vector<double> losses;
  std::vector<float> parameters;
  // The mean of the last steps, as single ones differ in how hard they are.
  double final_loss() const { return std::accumulate(losses.end() - 20, losses.end(), 0.0) / 20; }
};

Trained Train(const v1::RunConfig& config, int steps = kSteps) {
  RuleSource source(config);
  auto trainer = Trainer::Create(config, source).value();
  Trained run;
  for (int step = 0; step < steps; ++step) {
    v1::StepMetrics metrics;
    const absl::Status status = trainer->Step(metrics, step % 10 == 0);
    EXPECT_TRUE(status.ok()) << status;
    run.losses.push_back(metrics.loss());
  }
  const ParameterSet& parameters = trainer->parameters();
  run.parameters = parameters.flat().ToFloats();
  // What the model reads is what the optimizer has left.
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Tensor& read = parameters.Compute(i);
    EXPECT_EQ(read.ToFloats(), parameters[i].To(read.dtype()).ToFloats())
        << parameters.info(i).name;
  }
  return run;
}

class MixedPrecisionTraining : public testing::TestWithParam<v1::Block> {};

TEST_P(MixedPrecisionTraining, EndsWithinOnePercentOfSinglePrecision) {
  const Trained single = Train(Config(GetParam(), v1::F32));
  const Trained mixed = Train(Config(GetParam(), v1::BF16));
  EXPECT_LT(single.final_loss(), 0.6 * single.losses[0]);  // something was learnt
  EXPECT_NEAR(mixed.final_loss() / single.final_loss(), 1, 0.01);
  EXPECT_NE(mixed.losses, single.losses);
}

TEST_P(MixedPrecisionTraining, IsTheSameEveryTimeHoweverMuchIsKept) {
  v1::RunConfig config = Config(GetParam(), v1::BF16);
  const Trained once = Train(config, 5);
  for (const v1::Rematerialize policy : {v1::KEEP_ALL, v1::UNITS, v1::SLICES}) {
    config.mutable_train()->set_rematerialize(policy);
    const Trained again = Train(config, 5);
    EXPECT_EQ(again.losses, once.losses);
    EXPECT_EQ(again.parameters, once.parameters);
  }
}

INSTANTIATE_TEST_SUITE_P(Blocks, MixedPrecisionTraining,
                         testing::Values(v1::LMM, v1::MAC, v1::MAG, v1::TRANSFORMER),
                         [](const auto& info) { return v1::Block_Name(info.param); });

}  // namespace
}  // namespace mnemo
