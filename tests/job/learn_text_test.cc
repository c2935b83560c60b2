// Tiny models learn real text: on held-out bytes of the C headers that every development machine
// has, each goes well below a bigram counted on the text that it saw. And, once trained, their
// memories are still stable: gates are learnt and can drift.
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "src/data/prepare.h"
#include "src/data/sample_stream.h"
#include "src/job/training_run.h"
#include "src/model/config_check.h"
#include "src/model/evaluator.h"
#include "src/model/saved_model.h"
#include "tests/data/data_test_util.h"
#include "tests/job/stable_memories.h"

namespace mnemo {
namespace {

constexpr int64_t kSteps = 150, kLength = 256, kSequences = 8;
constexpr int64_t kHeldOutTokens = 32768;
constexpr double kMargin = 0.2;  // nats below the bigram

v1::RunConfig Config(const std::string& block, const std::string& shards) {
  const std::string attention = block == "MAG"   ? "attention { window: 32 persistent_tokens: 4 }"
                                : block == "MAC" ? "attention { segment: 64 persistent_tokens: 4 }"
                                                 : "";
  v1::RunConfig config;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
      "model { block: " + block + " layers: 2 width: 64 heads: 1 " + attention +
          " } train { steps: " + std::to_string(kSteps) + " sequence_length: " +
          std::to_string(kLength) + " sequences: " + std::to_string(kSequences) +
          " seed: 3 optimizer { learning_rate: 5e-3 warmup_steps: 20 } } data { shards: '" +
          shards + "' evaluation: '" + shards + "' }",
      &config));
  return config;
}

// Bigram counts of everything that training sees, and their cross-entropy on held-out tokens.
class Bigram {
 public:
  explicit Bigram(int64_t vocabulary)
      : vocabulary_(vocabulary), counts_(vocabulary * vocabulary), totals_(vocabulary) {}

  void Count(const SliceBatch& batch) {
    for (size_t i = 0; i < batch.tokens.size(); ++i) {
      if (batch.targets[i] < 0) continue;
      ++counts_[batch.tokens[i] * vocabulary_ + batch.targets[i]];
      ++totals_[batch.tokens[i]];
    }
  }
  // Nats; a pair that was never seen counts as a hundredth of one.
  double Loss(int32_t token, int32_t target) const {
    constexpr double kUnseen = 0.01;
    const double total = totals_[token] + kUnseen * static_cast<double>(vocabulary_);
    return -std::log((counts_[token * vocabulary_ + target] + kUnseen) / total);
  }

 private:
  int64_t vocabulary_;
  std::vector<double> counts_, totals_;
};

class LearnText : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = new TestDirectory;
    PrepareOptions options;
    options.input.paths = {"/usr/include"};
    options.input.include = {"*.h"};
    options.out = *directory_ / "shards";
    options.holdout = 0.05;
    const auto summary = Prepare(FileSystem::Posix(), options);
    ASSERT_TRUE(summary.ok()) << summary.status();
  }
  static void TearDownTestSuite() { delete directory_; }

  static std::shared_ptr<const TokenStream> Stream(ShardRole role) {
    auto set = TokenSet::Open({*directory_ / "shards"}, role);
    EXPECT_TRUE(set.ok()) << set.status();
    auto stream = TokenStream::Open(std::move(*set), DocumentLayout::kConcatenated, 1);
    EXPECT_TRUE(stream.ok()) << stream.status();
    return std::move(*stream);
  }

  // Cross-entropy of the first kHeldOutTokens held-out tokens under the bigram.
  static double BigramLoss(uint64_t seed) {
    const auto training = Stream(ShardRole::kTraining);
    auto samples = SampleStream::Create(
        training, {.sequence_length = kLength, .sequences_per_step = kSequences, .seed = seed});
    EXPECT_TRUE(samples.ok()) << samples.status();
    Bigram bigram(training->set().tokenizer().vocabulary);
    for (int64_t step = 0; step < kSteps; ++step) {
      auto batch = (*samples)->Read({.step = step, .sequences = kSequences, .end = kLength});
      EXPECT_TRUE(batch.ok()) << batch.status();
      bigram.Count(*batch);
    }
    auto held_out = EvaluationStream::Create(Stream(ShardRole::kEvaluation), kLength);
    EXPECT_TRUE(held_out.ok()) << held_out.status();
    double loss = 0;
    int64_t targets = 0;
    for (int64_t s = 0; s < (*held_out)->sequences() && s * kLength < kHeldOutTokens; ++s) {
      const auto batch = (*held_out)->Read(s, 0, (*held_out)->length(s));
      EXPECT_TRUE(batch.ok()) << batch.status();
      for (size_t i = 0; i < batch->tokens.size(); ++i) {
        if (batch->targets[i] < 0) continue;
        loss += bigram.Loss(batch->tokens[i], batch->targets[i]);
        ++targets;
      }
    }
    return loss / static_cast<double>(targets);
  }

  static void Learn(const std::string& block) {
    TrainingRunOptions options;
    options.written = Config(block, *directory_ / "shards");
    options.config_name = block;
    options.run_directory = *directory_ / block;
    const auto run = RunTraining(options);
    ASSERT_TRUE(run.ok()) << run.status();
    const auto model = LoadModel(FileSystem::Posix(), run->model_directory);
    ASSERT_TRUE(model.ok()) << model.status();
    auto held_out = EvaluationStream::Create(Stream(ShardRole::kEvaluation), kLength);
    ASSERT_TRUE(held_out.ok()) << held_out.status();
    EvaluationOptions evaluation;
    evaluation.max_positions = kHeldOutTokens;
    const auto result = Evaluate(model->spec, model->parameters, **held_out, evaluation);
    ASSERT_TRUE(result.ok()) << result.status();
    const double bigram = BigramLoss(options.written.train().seed());
    std::printf("%s: held-out loss %.3f, bigram %.3f, %.0f s\n", block.c_str(), result->loss(),
                bigram, run->seconds);
    EXPECT_LT(result->loss(), bigram - kMargin);
    std::vector<int32_t> text(MNEMO_STABILITY_TOKENS);
    const absl::Status read = Stream(ShardRole::kEvaluation)->set().ReadTokens(0, text);
    ASSERT_TRUE(read.ok()) << read;
    ExpectStableMemories(model->spec, model->parameters, text);
  }

  static TestDirectory* directory_;
};
TestDirectory* LearnText::directory_ = nullptr;

TEST_F(LearnText, Lmm) { Learn("LMM"); }
TEST_F(LearnText, Mag) { Learn("MAG"); }
TEST_F(LearnText, Mac) { Learn("MAC"); }

}  // namespace
}  // namespace mnemo
