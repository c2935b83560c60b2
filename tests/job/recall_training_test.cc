#include "src/job/recall_training.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

RecallOptions TinyRecall() {
  RecallOptions options;
  options.shape.length = 32;
  options.shape.pairs = 2;
  options.batch = 4;
  options.evaluation_batches = 1;
  options.report_every = 4;
  return options;
}

std::vector<RecallReport> Recall(const v1::RunConfig& config, const RecallOptions& options) {
  const auto reports = TrainRecall(config, options, nullptr);
  EXPECT_TRUE(reports.ok()) << reports.status();
  return reports.ok() ? reports->reports : std::vector<RecallReport>();
}

TEST(RecallTraining, ReportsNowAndThenAndAtTheEnd) {
  for (v1::Block block : {v1::LMM, v1::MAC, v1::TRANSFORMER}) {
    const v1::RunConfig config = Effective(TinyRun(block));  // 6 steps
    std::vector<int64_t> steps;
    const auto reports = TrainRecall(config, TinyRecall(), [&](const RecallReport& report) {
      steps.push_back(report.step);
      EXPECT_GE(report.accuracy, 0);
      EXPECT_LE(report.accuracy, 1);
    });
    ASSERT_TRUE(reports.ok()) << reports.status();
    EXPECT_THAT(steps, ElementsAre(4, 6));
    ASSERT_EQ(reports->reports.size(), 2u);
    const std::vector<RecallReport> again = Recall(config, TinyRecall());
    EXPECT_EQ(again[1].loss, reports->reports[1].loss);
    EXPECT_EQ(again[1].accuracy, reports->reports[1].accuracy);
  }
}

TEST(RecallTraining, LearnsAndStopsAtTheAccuracyAskedFor) {
  v1::RunConfig config = Effective(TinyRun());
  config.mutable_train()->set_steps(40);
  config.mutable_train()->mutable_optimizer()->set_decay_steps(1000);
  RecallOptions options = TinyRecall();
  options.report_every = 1;
  const std::vector<RecallReport> all = Recall(config, options);
  ASSERT_EQ(all.size(), 40u);
  EXPECT_LT(all.back().loss, all.front().loss - 0.3);  // values are told from other symbols
  options.stop_at = 0;
  EXPECT_EQ(Recall(config, options).size(), 1u);
}

TEST(RecallTraining, EndsWhenItsTimeIsOverAndSaysHowFarItCame) {
  RecallOptions options = TinyRecall();
  options.report_every = 100;
  options.seconds = 1e-9;
  const std::vector<RecallReport> reports = Recall(Effective(TinyRun()), options);
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_EQ(reports[0].step, 1);
  options.seconds = 1e9;
  EXPECT_EQ(Recall(Effective(TinyRun()), options).back().step, 6);
}

// A configuration that nothing has checked must not bring the program down.
TEST(RecallTraining, WhatTensorCodeThrowsIsAStatus) {
  v1::RunConfig config = Effective(TinyRun());
  config.mutable_model()->set_heads(3);
  const auto reports = TrainRecall(config, TinyRecall(), nullptr);
  EXPECT_EQ(reports.status().code(), absl::StatusCode::kInvalidArgument);
  RecallOptions options = TinyRecall();
  options.shape.pairs = 20;
  EXPECT_THAT(std::string(TrainRecall(config, options, nullptr).status().message()),
              HasSubstr("20 pairs do not fit"));
}

}  // namespace
}  // namespace mnemo
