#include "src/model/smaller_run.h"

#include <gtest/gtest.h>

#include <limits>

#include "src/model/config_check.h"
#include "src/model/plan_inputs.h"

namespace mnemo {
namespace {

v1::RunConfig Effective(v1::RunConfig config) {
  config = EffectiveConfig(config, "test").value();
  config.mutable_model()->set_vocabulary(100);
  return config;
}

// 2 slices of 512 tokens, 4 sequences, everything kept.
v1::RunConfig Large() {
  v1::RunConfig config;
  config.mutable_model()->set_block(v1::LMM);
  config.mutable_model()->set_layers(4);
  config.mutable_model()->set_width(32);
  config.mutable_model()->set_heads(2);
  config.mutable_model()->mutable_memory()->set_chunk(16);
  config.mutable_train()->set_steps(1);
  config.mutable_train()->set_sequence_length(1024);
  config.mutable_train()->set_slice(512);
  config.mutable_train()->set_sequences(4);
  config.mutable_train()->set_rematerialize(v1::KEEP_ALL);
  config.mutable_train()->mutable_optimizer()->set_learning_rate(1e-3);
  return Effective(config);
}

int64_t Planned(const v1::RunConfig& config) { return PlanRun(config).value().memory().total(); }

TEST(SmallerRun, NamesTheFirstThatFits) {
  const v1::RunConfig large = Large();
  int64_t limit = Planned(large) - 1;
  std::vector<std::string> changes;
  for (int i = 0; i < 20; ++i) {
    const auto smaller = FindSmallerRun(large, 1, limit);
    ASSERT_TRUE(smaller.has_value());
    EXPECT_EQ(smaller->bytes, Planned(smaller->config));
    if (!smaller->fits) break;
    EXPECT_LE(smaller->bytes, limit);
    limit = smaller->bytes - 1;
    changes.push_back(smaller->changes);
  }
  ASSERT_GE(changes.size(), 5u) << testing::PrintToString(changes);
  EXPECT_EQ(changes[0], "train.rematerialize: UNITS");
  EXPECT_EQ(changes[1], "train.rematerialize: SLICES");
  EXPECT_EQ(changes[2], "train.slice: 256, train.rematerialize: SLICES");
  EXPECT_NE(changes.back().find("train.sequences: 1, train.accumulation: 4"), std::string::npos)
      << changes.back();
}

// Every step of the way has the same tokens, and the last is told where nothing fits.
TEST(SmallerRun, SaysTheLeastWhereNothingFits) {
  const v1::RunConfig large = Large();
  const auto least = FindSmallerRun(large, 1, 0);
  ASSERT_TRUE(least.has_value());
  EXPECT_FALSE(least->fits);
  const v1::TrainConfig &before = large.train(), &now = least->config.train();
  EXPECT_EQ(now.sequences() * now.micro_batches() * now.accumulation(),
            before.sequences() * before.micro_batches() * before.accumulation());
  EXPECT_EQ(now.sequence_length(), before.sequence_length());
  EXPECT_EQ(least->bytes, Planned(least->config));
}

TEST(SmallerRun, LeavesOutWhatIsNotPossible) {
  v1::RunConfig config;
  config.mutable_model()->set_block(v1::TRANSFORMER);
  config.mutable_model()->set_layers(2);
  config.mutable_model()->set_width(32);
  config.mutable_model()->set_heads(2);
  config.mutable_train()->set_steps(1);
  config.mutable_train()->set_sequence_length(64);
  config.mutable_train()->set_rematerialize(v1::SLICES);
  config.mutable_train()->mutable_optimizer()->set_learning_rate(1e-3);
  // Full attention has one slice; there is one sequence, and SLICES already.
  EXPECT_FALSE(FindSmallerRun(Effective(config), 1, 0).has_value());
  config.mutable_train()->set_sequences(2);
  const auto smaller = FindSmallerRun(Effective(config), 1, std::numeric_limits<int64_t>::max());
  ASSERT_TRUE(smaller.has_value());
  EXPECT_EQ(smaller->changes, "train.sequences: 1, train.accumulation: 2");
}

}  // namespace
}  // namespace mnemo
