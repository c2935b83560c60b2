// Plans of runs on a GPU, made without one: what kernels keep and take is counted, not what the
// compositions would.
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "src/core/fused_op.h"
#include "src/model/config_check.h"
#include "src/model/counted_step.h"
#include "src/model/plan_inputs.h"

namespace mnemo {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// 24 x 1024, MLP 2816, vocabulary 32768, 8 sequences of 4096 tokens in one slice.
v1::RunConfig Transformer() {
  v1::RunConfig config;
  v1::ModelConfig& model = *config.mutable_model();
  model.set_block(v1::TRANSFORMER);
  model.set_layers(24);
  model.set_width(1024);
  model.set_heads(16);
  model.set_mlp_hidden(2816);
  model.set_vocabulary(32768);
  model.mutable_attention()->set_window(0);
  v1::TrainConfig& train = *config.mutable_train();
  train.set_steps(1);
  train.set_sequences(8);
  train.set_sequence_length(4096);
  train.set_rematerialize(v1::KEEP_ALL);
  train.mutable_optimizer()->set_learning_rate(1e-3);
  config.mutable_execution()->set_device(v1::CUDA);
  return EffectiveConfig(config, "test").value();
}

v1::MemoryEstimate Plan(const v1::RunConfig& config) { return PlanRun(config).value().memory(); }

TEST(GpuPlan, KeepsWhatTheKernelsKeep) {
  const v1::MemoryEstimate memory = Plan(Transformer());
  // Rows of 1,024 bf16 of 32,768 tokens are 64 MiB. A layer keeps: two norms' outputs, q and k
  // before and after their rotation, v, attention's output, the two sums; gate, up and their
  // product; the statistics of attention (2 MiB).
  const int64_t layer = (10 * 64 + 3 * 176 + 2) * kMiB;
  EXPECT_NEAR(static_cast<double>(memory.tapes()) / static_cast<double>(24 * layer), 1, 0.01);
  // One piece of the scores' gradients, and little besides.
  EXPECT_GT(memory.workspace(), 1500 * kMiB);
  EXPECT_LT(memory.workspace(), 3000 * kMiB);
  EXPECT_EQ(memory.process() + memory.cache(), 0);
}

TEST(GpuPlan, FollowsTheExecution) {
  v1::RunConfig config = Transformer();
  const v1::MemoryEstimate ordered = Plan(config);
  config.mutable_execution()->set_deterministic(false);
  const v1::MemoryEstimate unordered = Plan(config);
  EXPECT_LT(unordered.workspace(), ordered.workspace() - 500 * kMiB);
  EXPECT_EQ(unordered.tapes(), ordered.tapes());
  config.mutable_execution()->set_fused(false);
  config.mutable_train()->set_sequences(1);
  const v1::MemoryEstimate composed = Plan(config);
  EXPECT_GT(composed.tapes(), ordered.tapes() / 8 * 2);
}

TEST(GpuPlan, IsNotCountedAmongWhatRan) {
  const auto total = [] {
    int64_t sum = 0;
    for (const auto& [name, count] : FusedCounts()) {
      sum += count.kernel + count.composed + count.fallback;
    }
    return sum;
  };
  const int64_t before = total();
  (void)Plan(Transformer());
  EXPECT_EQ(total(), before);
}

// A process may run by one policy and plan by another, and a strict one does not stop a plan.
TEST(GpuPlan, DoesNotDependOnTheProcess) {
  const std::string before = Plan(Transformer()).SerializeAsString();
  SetFusedPolicy({.enabled = false, .strict = true, .deterministic = false});
  EXPECT_EQ(Plan(Transformer()).SerializeAsString(), before);
  SetFusedPolicy({});
}

// Many slices, whose carries outlive them.
v1::RunConfig ManySlices(v1::Block block, v1::Rematerialize policy, int sequences) {
  v1::RunConfig config;
  v1::ModelConfig& model = *config.mutable_model();
  model.set_block(block);
  model.set_layers(4);
  model.set_width(512);
  model.set_heads(8);
  model.set_vocabulary(16384);
  if (block == v1::MAC) model.mutable_attention()->set_segment(1024);
  if (block != v1::MAC && block != v1::LMM) model.mutable_attention()->set_window(512);
  v1::TrainConfig& train = *config.mutable_train();
  train.set_steps(1);
  train.set_sequences(sequences);
  train.set_sequence_length(8192);
  train.set_slice(1024);
  train.set_rematerialize(policy);
  train.mutable_optimizer()->set_learning_rate(1e-3);
  config.mutable_execution()->set_device(v1::CUDA);
  return EffectiveConfig(config, "test").value();
}

class GpuPlanStep : public testing::TestWithParam<std::tuple<v1::Block, v1::Rematerialize, int>> {};

// The plan is made from one or two layers and few slices; here all of them run, as the trainer
// runs them.
TEST_P(GpuPlanStep, IsWithinFivePercentOfAllLayersAndSlices) {
  const auto [block, policy, sequences] = GetParam();
  const v1::RunConfig config = ManySlices(block, policy, sequences);
  const CountedBytes whole = CountStep(config, MakeSpec(config.model()), 4, 8);
  const v1::MemoryEstimate plan = Plan(config);
  const int64_t planned = plan.kept_inputs() + plan.carries() + plan.tapes() + plan.workspace();
  EXPECT_NEAR(static_cast<double>(planned) / static_cast<double>(whole.peak), 1, 0.05)
      << plan.DebugString();
}

INSTANTIATE_TEST_SUITE_P(
    All, GpuPlanStep,
    testing::Combine(testing::Values(v1::LMM, v1::MAC, v1::MAG, v1::MAL, v1::TRANSFORMER),
                     testing::Values(v1::KEEP_ALL, v1::UNITS, v1::SLICES), testing::Values(1, 2)),
    [](const auto& info) {
      return v1::Block_Name(std::get<0>(info.param)) + "_" +
             v1::Rematerialize_Name(std::get<1>(info.param)) + "_" +
             std::to_string(std::get<2>(info.param));
    });

}  // namespace
}  // namespace mnemo
