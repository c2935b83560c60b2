// The plan of runs on a GPU against what they really take there.

#include <gtest/gtest.h>

#include <tuple>

#include "src/core/status.h"
#include "src/job/trainer.h"
#include "src/model/plan_inputs.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

// Large enough that what depends on the GPU alone does not count, and covered by all kernels.
v1::RunConfig Sized(v1::Block block, v1::Rematerialize policy) {
  v1::RunConfig config;
  v1::ModelConfig& model = *config.mutable_model();
  model.set_block(block);
  model.set_layers(4);
  model.set_width(512);
  model.set_heads(8);
  if (block != v1::TRANSFORMER) {
    model.mutable_memory()->set_depth(2);
    model.mutable_memory()->set_expansion(4);
    model.mutable_memory()->set_chunk(64);
  }
  if (block == v1::MAC) model.mutable_attention()->set_segment(1024);
  if (block != v1::MAC && block != v1::LMM) model.mutable_attention()->set_window(1024);
  v1::TrainConfig& train = *config.mutable_train();
  train.set_steps(2);
  train.set_sequence_length(4096);
  train.set_slice(2048);
  train.set_sequences(4);
  train.set_rematerialize(policy);
  train.mutable_optimizer()->set_learning_rate(1e-3);
  config.mutable_execution()->set_device(v1::CUDA);
  return config;
}

void ExpectPlanned(v1::RunConfig config) {
  const v1::RunConfig effective = Effective(std::move(config), 16384);
  RandomSource source(effective);
  auto trainer = Trainer::Create(effective, source);
  ASSERT_TRUE(trainer.ok()) << trainer.status();
  v1::StepMetrics metrics;
  for (int step = 0; step < 2; ++step) ASSERT_TRUE((*trainer)->Step(metrics).ok());
  const v1::MemoryEstimate memory = PlanRun(effective).value().memory();
  const double planned = static_cast<double>(TensorBytes(memory));
  const double actual = static_cast<double>((*trainer)->peak_bytes());
  fmt::print("planned {:.1f} MiB, peak {:.1f} MiB, {:+.1f} %\n", planned / (1 << 20),
             actual / (1 << 20), 100 * (planned / actual - 1));
  EXPECT_NEAR(planned / actual, 1, 0.05) << memory.DebugString();
}

class GpuPlanMemoryTest : public testing::TestWithParam<std::tuple<v1::Block, v1::Rematerialize>> {
};

TEST_P(GpuPlanMemoryTest, IsWithinFivePercentOfThePeak) {
  ExpectPlanned(Sized(std::get<0>(GetParam()), std::get<1>(GetParam())));
}

INSTANTIATE_TEST_SUITE_P(All, GpuPlanMemoryTest,
                         testing::Combine(testing::Values(v1::LMM, v1::MAC, v1::MAG, v1::MAL,
                                                          v1::TRANSFORMER),
                                          testing::Values(v1::KEEP_ALL, v1::UNITS, v1::SLICES)),
                         [](const auto& info) {
                           return v1::Block_Name(std::get<0>(info.param)) + "_" +
                                  v1::Rematerialize_Name(std::get<1>(info.param));
                         });

TEST(GpuPlanMemoryTest, AnyOrderOfSums) {
  v1::RunConfig config = Sized(v1::TRANSFORMER, v1::KEEP_ALL);
  config.mutable_execution()->set_deterministic(false);
  ExpectPlanned(config);
}

TEST(GpuPlanMemoryTest, FullAttention) {
  v1::RunConfig config = Sized(v1::TRANSFORMER, v1::KEEP_ALL);
  config.mutable_model()->mutable_attention()->set_window(0);
  config.mutable_train()->set_slice(4096);
  ExpectPlanned(config);
}

TEST(GpuPlanMemoryTest, Composed) {
  v1::RunConfig config = Sized(v1::MAG, v1::UNITS);
  config.mutable_execution()->set_fused(false);
  config.mutable_train()->set_sequences(1);
  ExpectPlanned(config);
}

TEST(GpuPlanMemoryTest, SinglePrecision) {
  v1::RunConfig config = Sized(v1::LMM, v1::UNITS);
  config.mutable_execution()->set_precision(v1::F32);
  config.mutable_train()->set_sequences(1);
  ExpectPlanned(config);
}

}  // namespace
}  // namespace mnemo
