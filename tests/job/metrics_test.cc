#include "src/job/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using nlohmann::json;

v1::StepMetrics Sample() {
  v1::StepMetrics metrics;
  metrics.set_step(7);
  metrics.set_loss(1.25);
  metrics.set_learning_rate(0.5);
  metrics.set_gradient_norm(3);
  metrics.set_skipped_steps(2);
  metrics.set_tokens(64);
  metrics.set_tokens_per_second(1000);
  metrics.set_speed_of_light_share(0.25);
  metrics.mutable_seconds()->set_data(1);
  metrics.mutable_seconds()->set_forward(2);
  metrics.mutable_seconds()->set_backward(4);
  metrics.mutable_seconds()->set_optimizer(8);
  metrics.mutable_seconds()->set_wait(16);
  metrics.mutable_seconds()->set_checkpoint(32);
  metrics.mutable_seconds()->set_checkpoint_wait(31);
  metrics.set_failed_saves(3);
  metrics.set_peak_bytes(int64_t{1} << 40);
  v1::LayerMetrics& layer = *metrics.add_layers();
  layer.set_theta(0.1);
  layer.set_eta(0.2);
  layer.set_alpha(0.3);
  layer.set_state_norm(0.4);
  layer.set_clamp_hits(5);
  v1::FusedOpCount& op = *metrics.add_fused();
  op.set_name("memory_scan");
  op.set_kernel(1);
  op.set_composed(2);
  op.set_fallback(3);
  return metrics;
}

TEST(MetricsLineTest, SaysEverything) {
  const json line = json::parse(MetricsLine(Sample()));
  const json want = {
      {"step", 7},
      {"loss", 1.25},
      {"learning_rate", 0.5},
      {"gradient_norm", 3.0},
      {"skipped", false},
      {"skipped_steps", 2},
      {"tokens", 64},
      {"tokens_per_second", 1000.0},
      {"speed_of_light_share", 0.25},
      {"seconds",
       {{"data", 1.0},
        {"forward", 2.0},
        {"backward", 4.0},
        {"optimizer", 8.0},
        {"evaluation", 0.0},
        {"wait", 16.0},
        {"checkpoint", 32.0},
        {"checkpoint_wait", 31.0}}},
      {"peak_bytes", int64_t{1} << 40},
      {"failed_saves", 3},
      {"layers",
       {{{"theta", 0.1}, {"eta", 0.2}, {"alpha", 0.3}, {"state_norm", 0.4}, {"clamp_hits", 5}}}},
      {"fused", {{"memory_scan", {{"kernel", 1}, {"composed", 2}, {"fallback", 3}}}}}};
  EXPECT_EQ(line, want) << line.dump(2);
}

TEST(MetricsLineTest, EvaluationLossIsThereOnlyWhereThereIsOne) {
  v1::StepMetrics metrics = Sample();
  EXPECT_FALSE(json::parse(MetricsLine(metrics)).contains("evaluation_loss"));
  metrics.set_evaluation_loss(0);
  EXPECT_EQ(json::parse(MetricsLine(metrics))["evaluation_loss"], 0.0);
}

TEST(MetricsLineTest, NumbersThatAreNotFiniteAreNull) {
  v1::StepMetrics metrics = Sample();
  metrics.set_loss(std::nan(""));
  metrics.set_gradient_norm(HUGE_VAL);
  const json line = json::parse(MetricsLine(metrics));
  EXPECT_TRUE(line["loss"].is_null());
  EXPECT_TRUE(line["gradient_norm"].is_null());
}

TEST(MetricsWriterTest, EveryLineIsInTheFileAtOnce) {
  const TestDirectory directory;
  const std::string path = directory / "metrics.jsonl";
  auto writer = MetricsWriter::Create(FileSystem::Posix(), path);
  ASSERT_OK(writer);
  ASSERT_OK(writer->Write(Sample()));
  EXPECT_EQ(ReadText(path), MetricsLine(Sample()) + "\n");
  ASSERT_OK(writer->Write(Sample()));
  EXPECT_EQ(ReadText(path), MetricsLine(Sample()) + "\n" + MetricsLine(Sample()) + "\n");
  ASSERT_OK(writer->Close());
}

std::string Line(int64_t step, double loss) {
  v1::StepMetrics metrics = Sample();
  metrics.set_step(step);
  metrics.set_loss(loss);
  if (step == 2) metrics.set_skipped(true);
  if (step == 3) metrics.set_evaluation_loss(9);
  return MetricsLine(metrics) + "\n";
}

TEST(CutMetricsTest, KeepsWholeLinesUpToTheStep) {
  const TestDirectory directory;
  const std::string path = directory / "metrics.jsonl";
  FileSystem& fs = FileSystem::Posix();
  EXPECT_TRUE(CutMetrics(fs, path, 5)->train.empty());
  EXPECT_FALSE(fs.Exists(path));
  const std::string three = Line(1, 0.1) + Line(2, 0.2) + Line(3, 0.3);
  for (const std::string& rest :
       {std::string(), Line(4, 0.4) + Line(5, 0.5), Line(7, 0.7), Line(3, 1).substr(0, 20),
        std::string("\n"), std::string("{}\n") + Line(3, 1), std::string(30, '\0')}) {
    WriteText(path, three + rest);
    const auto losses = CutMetrics(fs, path, 3);
    ASSERT_OK(losses);
    EXPECT_EQ(ReadText(path), three);
    ASSERT_EQ(losses->train.size(), 2u);  // the second was skipped
    EXPECT_EQ(losses->train[1].step, 3);
    EXPECT_EQ(losses->train[1].loss, 0.3);  // to the last bit
    ASSERT_EQ(losses->held_out.size(), 1u);
    EXPECT_EQ(losses->held_out[0].loss, 9);
  }
}

TEST(CutMetricsTest, WhatFollowsIsAppended) {
  const TestDirectory directory;
  const std::string path = directory / "metrics.jsonl";
  WriteText(path, Line(1, 0.1));
  auto writer = MetricsWriter::Append(FileSystem::Posix(), path);
  ASSERT_OK(writer);
  v1::StepMetrics metrics = Sample();
  metrics.set_step(2);
  ASSERT_OK(writer->Write(metrics));
  ASSERT_OK(writer->Close());
  EXPECT_EQ(ReadText(path), Line(1, 0.1) + MetricsLine(metrics) + "\n");
}

}  // namespace
}  // namespace mnemo
