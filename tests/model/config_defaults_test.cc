#include "src/model/config_defaults.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <string>

#include "src/core/config_text.h"
#include "tests/model/config_samples.h"

namespace mnemo {
namespace {

v1::RunConfig Filled(v1::Block block, const std::vector<std::string>& overrides = {}) {
  v1::RunConfig config = SampleConfig(block, overrides);
  FillDefaults(config);
  return config;
}

void ExpectFillsTo(v1::Block block, const std::vector<std::string>& overrides,
                   const std::string& expected) {
  v1::RunConfig want;
  ASSERT_TRUE(ParseConfigText(expected, "expected", &want).ok());
  const v1::RunConfig config = Filled(block, overrides);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(config, want))
      << PrintConfigText(config);
}

constexpr char kTrainDataExecution[] = R"(
train {
  steps: 100 sequence_length: 256 slice: 128 sequences: 1 micro_batches: 1 accumulation: 1
  rematerialize: UNITS log_every: 1 vocabulary_tile: 8192 evaluation_tokens: 16384
  checkpoint_keep: 3 checkpoint_async: true
  optimizer {
    learning_rate: 1e-3 minimum_ratio: 0.1 beta1: 0.9 beta2: 0.95 epsilon: 1e-8 weight_decay: 0.1
    clip_norm: 1 max_bad_steps: 5 decay_steps: 100
  }
}
data { document_reset: NONE prefetch: 2 }
execution { device: CPU precision: F32 fused: true deterministic: true }
parallel { zero: 1 timeout_seconds: 600 }
)";

TEST(FillDefaultsTest, WritesEveryDefaultOfAMemoryBlock) {
  ExpectFillsTo(v1::MAC, {}, std::string(R"(
model {
  block: MAC layers: 2 width: 128 heads: 2 mlp_hidden: 352 norm_epsilon: 1e-6
  memory {
    depth: 2 expansion: 4 activation: SILU residual: true layer_norm: true momentum: true
    forget_towards: ZERO chunk: 64 initial_weights: UNIT normalize_qk: true output_gate: SILU
    gates {
      theta_max: 0.015625 eta_max: 0.98 alpha_max: 2e-4 average_surprise: true
      alpha_first: 1e-4 alpha_last: 1e-6
    }
  }
  attention { segment: 64 rope_base: 10000 }
})") + kTrainDataExecution);
}

TEST(FillDefaultsTest, ATransformerHasNoMemory) {
  ExpectFillsTo(v1::TRANSFORMER, {"model.memory.depth=1"}, std::string(R"(
model {
  block: TRANSFORMER layers: 2 width: 128 heads: 2 mlp_hidden: 352 norm_epsilon: 1e-6
  attention { window: 64 rope_base: 10000 }
})") + kTrainDataExecution);
}

TEST(FillDefaultsTest, ALinearMemoryIsBareAndBoundedByItsChunk) {
  const v1::MemoryConfig memory =
      Filled(v1::LMM, {"model.memory.depth=1", "model.memory.chunk=64"}).model().memory();
  EXPECT_FALSE(memory.residual());
  EXPECT_FALSE(memory.layer_norm());
  EXPECT_EQ(memory.initial_weights(), v1::SMALL);
  EXPECT_EQ(memory.gates().theta_max(), 1.0 / 64);
  EXPECT_EQ(Filled(v1::LMM, {"model.memory.depth=1", "model.memory.layer_norm=true",
                             "model.memory.chunk=16"})
                .model()
                .memory()
                .gates()
                .theta_max(),
            1.0 / 64);  // 1 / head dim
}

TEST(FillDefaultsTest, GatesThatAreOffHaveNoRange) {
  const v1::GateConfig gates =
      Filled(v1::LMM, {"model.memory.momentum=false", "model.memory.forget_towards=NEVER"})
          .model()
          .memory()
          .gates();
  EXPECT_EQ(gates.eta_max(), 0);
  EXPECT_EQ(gates.alpha_max(), 0);
  EXPECT_EQ(gates.alpha_first(), 0);
}

TEST(FillDefaultsTest, PresetsBecomeTheFieldsTheyStandFor) {
  constexpr char kModel[] = R"(
model {
  block: LMM layers: 2 width: 128 heads: 2 mlp_hidden: 352 norm_epsilon: 1e-6
  memory {
    expansion: 4 activation: GELU residual: true layer_norm: true biases: true momentum: false
    forget_towards: NEVER chunk: 16 row_scale: true normalize_qk: false shared_qk_projection: true
    output_gate: GELU)";
  ExpectFillsTo(v1::LMM, {"model.memory.preset=TTT_LINEAR"},
                std::string(kModel) +
                    " initial_weights: SMALL depth: 1 gates { average_surprise: false theta_max: "
                    "0.015625 } } }" +
                    kTrainDataExecution);
  ExpectFillsTo(v1::LMM, {"model.memory.preset=TTT_MLP"},
                std::string(kModel) +
                    " initial_weights: UNIT depth: 2 gates { average_surprise: false theta_max: "
                    "0.0015625 } } }" +
                    kTrainDataExecution);
  EXPECT_EQ(CheckMessage(v1::LMM, {"model.memory.preset=TTT_LINEAR"}), "");
  EXPECT_EQ(CheckMessage(v1::MAC, {"model.memory.preset=TTT_MLP"}), "");
}

TEST(FillDefaultsTest, KeepsWhatIsWrittenZerosWithPresenceIncluded) {
  const v1::RunConfig config =
      Filled(v1::LMM, {"model.memory.residual=false", "train.optimizer.clip_norm=0",
                       "train.optimizer.weight_decay=0", "execution.fused=false",
                       "model.mlp_hidden=100", "train.optimizer.beta2=0.99"});
  EXPECT_FALSE(config.model().memory().residual());
  EXPECT_EQ(config.train().optimizer().clip_norm(), 0);
  EXPECT_EQ(config.train().optimizer().weight_decay(), 0);
  EXPECT_FALSE(config.execution().fused());
  EXPECT_EQ(config.model().mlp_hidden(), 100);
  EXPECT_EQ(config.train().optimizer().beta2(), 0.99);
}

TEST(FillDefaultsTest, FillingTwiceChangesNothing) {
  for (v1::Block block : {v1::LMM, v1::MAC, v1::MAG, v1::MAL, v1::TRANSFORMER}) {
    const v1::RunConfig once = Filled(block, {"model.memory.preset=TTT_LINEAR"});
    v1::RunConfig twice = once;
    FillDefaults(twice);
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(once, twice));
  }
}

TEST(FillDefaultsTest, MlpIsTwoAndThreeQuartersWideInThirtyTwos) {
  auto hidden = [](int width) {
    return Filled(v1::LMM, {"model.width=" + std::to_string(width)}).model().mlp_hidden();
  };
  EXPECT_EQ(hidden(4), 32);
  EXPECT_EQ(hidden(64), 192);  // 176 is half-way between 160 and 192
  EXPECT_EQ(hidden(768), 2112);
  EXPECT_EQ(hidden(1024), 2816);
  EXPECT_EQ(hidden(2048), 5632);
}

}  // namespace
}  // namespace mnemo
