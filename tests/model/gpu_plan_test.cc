// Plans of runs on a GPU, made without one: what kernels keep and take is counted, not what the
// compositions would.
#include <gtest/gtest.h>

#include "src/core/fused_op.h"
#include "src/model/config_check.h"
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

}  // namespace
}  // namespace mnemo
