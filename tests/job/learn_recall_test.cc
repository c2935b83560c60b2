// Associative recall, learned: the cheapest sign that the memory's gradient is right end to end.
// The questions lie farther from their pairs than two layers of windows reach, so attention of the
// same size cannot answer.
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include "src/job/recall_training.h"
#include "src/model/config_check.h"
#include "tests/job/stable_memories.h"

namespace mnemo {
namespace {

constexpr int64_t kSteps = 400;

// Sequences of the task, one after the other.
std::vector<int32_t> TokensOfTheTask(const RecallShape& shape) {
  const int64_t sequences = (MNEMO_STABILITY_TOKENS + shape.length - 1) / shape.length;
  return MakeRecallBatch(shape, sequences, /*seed=*/2, /*step=*/0).tokens;
}

// The last accuracy of two layers of width 64. A linear memory with a rate of 1/4 at chunk 16
// learns fast; above 1 / chunk it needs the clamp.
double Learn(const std::string& block, const std::string& attention) {
  const std::string memory = block == "TRANSFORMER" ? "" : R"(
      memory { depth: 1 chunk: 16 clamp: 4 gates { theta_max: 0.25 } })";
  v1::RunConfig written;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
      "model { block: " + block + " layers: 2 width: 64 heads: 1 vocabulary: 56 " + memory +
          attention + "} train { steps: " + std::to_string(kSteps) +
          " sequence_length: 128 seed: 1 optimizer { learning_rate: 3e-3 warmup_steps: 20 "
          "decay_steps: 100000 } }",
      &written));
  const absl::StatusOr<v1::RunConfig> config = EffectiveConfig(written, "recall");
  EXPECT_TRUE(config.ok()) << config.status();
  RecallOptions options;
  options.shape.keys = 16;
  options.shape.distractors = 8;
  options.report_every = 50;
  options.stop_at = 0.95;
  const auto trained = TrainRecall(*config, options, [&](const RecallReport& report) {
    printf("%s step %d loss %.4f accuracy %.3f %.1f s\n", block.c_str(),
           static_cast<int>(report.step), report.loss, report.accuracy, report.seconds);
    fflush(stdout);
  });
  EXPECT_TRUE(trained.ok()) << trained.status();
  const RecallShape shape = CheckRecallShape(options.shape).value();
  EXPECT_GT(shape.distance(), 2 * (16 - 1)) << "two windows of 16 must not reach";
  if (trained->spec.has_memory()) {
    ExpectStableMemories(trained->spec, trained->parameters, TokensOfTheTask(shape));
  }
  return trained->reports.back().accuracy;
}

TEST(LearnRecall, MemoryAnswers) { EXPECT_GT(Learn("LMM", ""), 0.9); }

TEST(LearnRecall, MemoryBesideAWindowAnswers) {
  EXPECT_GT(Learn("MAG", "attention { window: 16 }"), 0.9);
}

TEST(LearnRecall, AWindowAloneCannot) {
  EXPECT_LT(Learn("TRANSFORMER", "attention { window: 16 }"), 0.2);
}

}  // namespace
}  // namespace mnemo
