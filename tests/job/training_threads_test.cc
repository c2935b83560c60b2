// A training run with threads under its kernels and a thread that reads ahead: what the thread
// sanitizer has to see. Large enough that kernels do use their threads, and no larger.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "src/job/training_run.h"
#include "tests/data/data_test_util.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

class TrainingThreadsTest : public testing::Test {
 protected:
  std::vector<double> Losses(int threads) {
    TrainingRunOptions options;
    options.written = TinyRun(v1::MAC);
    v1::ModelConfig& model = *options.written.mutable_model();
    model.set_width(32);
    model.mutable_memory()->set_chunk(32);
    model.mutable_attention()->set_segment(64);
    options.written.mutable_data()->add_shards(directory_ / "data");
    options.written.mutable_data()->add_evaluation(directory_ / "data");
    options.written.mutable_data()->set_prefetch(3);
    v1::TrainConfig& train = *options.written.mutable_train();
    train.set_steps(2);
    train.set_evaluate_every(2);
    train.set_checkpoint_every(1);  // written behind the second step
    train.set_sequence_length(256);
    train.set_slice(128);
    train.set_sequences(4);
    train.set_evaluation_tokens(256);
    options.written.mutable_execution()->set_threads(threads);
    options.config_name = "threads.textproto";
    options.run_directory = directory_ / ("run-" + std::to_string(threads));
    const auto result = RunTraining(options);
    EXPECT_OK(result);
    std::vector<double> losses;
    if (!result.ok()) return losses;
    for (const LossPoint& point : result->losses.train) losses.push_back(point.loss);
    for (const LossPoint& point : result->losses.held_out) losses.push_back(point.loss);
    return losses;
  }

  void SetUp() override {
    std::filesystem::create_directories(directory_ / "data");
    WriteShard(directory_ / "data/train-00000.h5", RandomDocuments(60, 60, 256, 1),
               TestTokenizer());
    WriteShard(directory_ / "data/eval-00000.h5", RandomDocuments(10, 60, 256, 2), TestTokenizer());
  }

  TestDirectory directory_;
};

TEST_F(TrainingThreadsTest, TwoStepsAreTheSameForAnyNumber) {
  const std::vector<double> one = Losses(1);
  EXPECT_EQ(one.size(), 3u);  // two steps and the held-out text
  EXPECT_EQ(Losses(3), one);
}

}  // namespace
}  // namespace mnemo
