#include "src/model/config_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "src/model/config_defaults.h"
#include "tests/model/config_samples.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

using Overrides = std::vector<std::string>;

TEST(ConfigCheckTest, EverySampleIsValid) {
  for (v1::Block block : {v1::LMM, v1::MAC, v1::MAG, v1::MAL, v1::TRANSFORMER}) {
    EXPECT_EQ(CheckMessage(block), "") << v1::Block_Name(block);
  }
}

struct Row {
  v1::Block block;
  Overrides overrides;
  const char* message;  // the whole message begins with it and is one problem
};

std::vector<Row> Rows() {
  return {
      {v1::LMM,
       {"model.heads=3"},
       "model.width = 128: must be a multiple of model.heads = 3; take "
       "126 or 129"},
      {v1::MAG, {"model.width=66", "model.heads=2"}, "model.heads = 2: gives heads of 33"},
      {v1::MAC,
       {"model.attention.segment=40"},
       "model.attention.segment = 40: must be a multiple of model.memory.chunk = 64; take 64"},
      {v1::MAC, {"model.attention.segment="}, "model.attention.segment is missing: MAC attends"},
      {v1::MAC,
       {"train.slice=32"},
       "train.slice = 32: must be a multiple of model.attention.segment = 64; take 64"},
      {v1::LMM,
       {"train.slice=8"},
       "train.slice = 8: must be a multiple of model.memory.chunk = 64; take 64"},
      {v1::LMM,
       {"train.slice=", "train.sequence_length=100"},
       "train.sequence_length = 100: must be a multiple of model.memory.chunk = 64; take 64 or "
       "128"},
      {v1::MAL,
       {"train.slice=192"},
       "train.sequence_length = 256: must be a multiple of train.slice = 192; take 192 or 384"},
      {v1::MAG, {"model.attention.window=0"}, "model.attention.window is missing: MAG attends"},
      {v1::MAL, {"model.attention.window=0"}, "model.attention.window is missing: MAL attends"},
      {v1::TRANSFORMER,
       {"model.attention.window=0"},
       "train.slice = 128: full attention cannot be cut into slices; remove it"},
      {v1::LMM,
       {"model.memory.layer_norm=false"},
       "model.memory.layer_norm = false: a memory of depth 2 without it diverges"},
      {v1::LMM,
       {"model.memory.depth=1", "model.memory.chunk=16", "model.memory.gates.theta_max=0.25"},
       "model.memory.gates.theta_max = 0.25: a linear memory without layer norm needs theta_max <= "
       "1 / model.memory.chunk = 0.0625, here it is 0.25; lower it to 0.0625, or set"},
      {v1::LMM,
       {"model.memory.depth=1", "model.memory.chunk=16",
        "model.memory.gates.average_surprise=false"},
       "model.memory.gates.theta_max = 0.0625: a linear memory without layer norm needs theta_max "
       "/ "
       "(1 - eta_max) <= 1 / model.memory.chunk = 0.0625, here it is 3.125; lower it to 0.00125"},
      {v1::LMM,
       {"model.memory.depth=1", "model.memory.normalize_qk=false"},
       "model.memory.normalize_qk = false: keys of any length"},
      {v1::LMM,
       {"model.memory.gates.alpha_max=1e-5"},
       "model.memory.gates.alpha_first = 0.0001: must be below model.memory.gates.alpha_max = "
       "1e-05"},
      {v1::LMM,
       {"model.memory.gates.alpha_last=0.99"},
       "model.memory.gates.alpha_last = 0.99: must be below model.memory.gates.alpha_max = 0.0002"},
      {v1::LMM,
       {"model.memory.preset=TTT_LINEAR", "model.memory.chunk=32"},
       "model.memory.chunk: model.memory.preset = TTT_LINEAR fixes this field; remove it"},
      {v1::LMM,
       {"train.optimizer.warmup_steps=101"},
       "train.optimizer.warmup_steps = 101: must be at most train.steps = 100; take more steps, or "
       "fewer of warm-up (--set train.optimizer.warmup_steps=N"},
      {v1::LMM,
       {"train.optimizer.warmup_steps=50", "train.optimizer.decay_steps=20"},
       "train.optimizer.decay_steps = 20: must be at least train.optimizer.warmup_steps = 50"},
      {v1::LMM,
       {"train.checkpoint_keep_best=true", "train.evaluate_every=10"},
       "train.checkpoint_keep_best = true: no held-out loss is measured on the way; give "
       "data.evaluation (--eval-shards) and train.evaluate_every"},
      {v1::LMM,
       {"train.checkpoint_keep_best=true", "data.evaluation=a"},
       "train.checkpoint_keep_best = true: no held-out loss is measured"},
      {v1::LMM,
       {"execution.fused=false", "execution.strict_fused=true"},
       "execution.strict_fused = true: contradicts execution.fused = false"},
      {v1::LMM, {"data.shards=a,"}, "data.shards: holds an empty path"},
      {v1::LMM, {"data.evaluation=,b"}, "data.evaluation: holds an empty path"},
      {v1::LMM,
       {"model.width=65536", "model.heads=512", "model.layers=1000"},
       "model.width = 65536: with model.layers = 1000 about 6.1e+13 weights, above 1e+13; take "
       "fewer "
       "layers or a smaller width"},
      {v1::LMM,
       {"train.sequence_length=68719476736", "train.sequences=64"},
       "train.sequence_length = 68719476736: times sequences, micro_batches and accumulation "
       "4.4e+12 tokens a step, above 1e+12; take shorter or fewer sequences"},
      {v1::LMM,
       {"train.sequence_length=68719476736", "train.slice=68719476736"},
       "train.slice = 68719476736: one tensor of a slice would hold 2.4e+13 numbers, above "
       "1e+13; take shorter slices"},
  };
}

TEST(ConfigCheckTest, EveryBadCombinationIsOneProblemWithItsRemedy) {
  for (const Row& row : Rows()) {
    const std::string message = CheckMessage(row.block, row.overrides);
    EXPECT_THAT(message, AllOf(StartsWith(row.message), Not(HasSubstr("\n"))));
  }
}

TEST(ConfigCheckTest, TheClampLiftsTheStabilityRules) {
  const std::string clamp = "model.memory.clamp=1";
  EXPECT_EQ(CheckMessage(v1::LMM, {clamp, "model.memory.layer_norm=false"}), "");
  EXPECT_EQ(
      CheckMessage(v1::LMM, {clamp, "model.memory.depth=1", "model.memory.gates.theta_max=0.25"}),
      "");
  EXPECT_EQ(
      CheckMessage(v1::LMM, {clamp, "model.memory.depth=1", "model.memory.normalize_qk=false"}),
      "");
}

TEST(ConfigCheckTest, LinearStabilityHoldsAtTheBoundItself) {
  EXPECT_EQ(CheckMessage(v1::LMM, {"model.memory.depth=1"}), "");
  EXPECT_EQ(CheckMessage(v1::LMM, {"model.memory.depth=1", "model.memory.chunk=48",
                                   "train.sequence_length=96",
                                   "train.slice=", "model.memory.gates.theta_max=0.0208333333333"}),
            "");
  EXPECT_EQ(CheckMessage(v1::LMM, {"model.memory.depth=1", "model.memory.momentum=false",
                                   "model.memory.gates.average_surprise=false"}),
            "");
}

TEST(ConfigCheckTest, CudaHasItsPrecisionsAndIsAcceptedWithoutAGpu) {
  EXPECT_EQ(CheckMessage(v1::LMM, {"execution.device=CUDA"}), "");
  const std::string message =
      CheckMessage(v1::LMM, {"execution.device=CUDA", "execution.precision=F64"});
  EXPECT_THAT(message, HasSubstr("execution.precision = F64: CUDA computes in BF16 or F32"));
}

TEST(ConfigCheckTest, TheCpuComputesInAnyPrecision) {
  for (const char* precision : {"BF16", "F32", "F64"}) {
    EXPECT_EQ(CheckMessage(v1::LMM, {std::string("execution.precision=") + precision}), "");
  }
}

TEST(ConfigCheckTest, ReportsAllProblemsUnderOneHeadline) {
  const std::string message = CheckMessage(
      v1::MAC, {"model.layers=0", "model.heads=3", "train.slice=100", "execution.strict_fused=true",
                "execution.fused=false", "model.memory.gates.eta_max=2"});
  EXPECT_THAT(message, StartsWith("5 problems in sample:\n  model.layers is missing"));
  for (const char* part : {"model.memory.gates.eta_max = 2", "model.width = 128",
                           "train.slice = 100: must be a multiple of model.attention.segment",
                           "execution.strict_fused = true"}) {
    EXPECT_THAT(message, HasSubstr(std::string("\n  ") + part));
  }
}

TEST(EffectiveConfigTest, FillsInOrRefuses) {
  const auto effective = EffectiveConfig(SampleConfig(v1::MAC), "sample");
  ASSERT_TRUE(effective.ok());
  EXPECT_EQ(effective->model().memory().chunk(), 64);
  EXPECT_EQ(CheckConfig(*effective, "again").message(), "");
  EXPECT_FALSE(EffectiveConfig(v1::RunConfig(), "sample").ok());
}

}  // namespace
}  // namespace mnemo
