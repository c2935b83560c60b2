// train, in one process: what it says and leaves behind, and the same command again.
#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/cli/run_mnemo.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class TrainCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteText(config_,
              "model { block: LMM layers: 1 width: 16 heads: 2 memory { depth: 1 chunk: 4 } }\n"
              "train { steps: 2 sequence_length: 24 slice: 8 optimizer { learning_rate: 1e-3 } }\n"
              "execution { threads: 1 }\n");
    ASSERT_OK(FileSystem::Posix().MakeDirectories(directory_ / "shards"));
    WriteShard(directory_ / "shards/train-0.h5", RandomDocuments(3, 50, 256, 1), TestTokenizer());
    WriteShard(directory_ / "shards/eval-0.h5", RandomDocuments(2, 50, 256, 2), TestTokenizer());
  }
  Result Train(std::vector<std::string> more = {}) const {
    const std::string shards = directory_ / "shards";
    std::vector<std::string> words = {"train",    config_, "--run-dir",     run_,
                                      "--shards", shards,  "--eval-shards", shards};
    words.insert(words.end(), more.begin(), more.end());
    return RunMnemo(words);
  }

  const TestDirectory directory_;
  const std::string config_ = directory_ / "run.textproto", run_ = directory_ / "run";
};

TEST_F(TrainCommandTest, TrainsSaysHowItWentAndIsFinished) {
  const Result first = Train();
  ASSERT_EQ(first.code, kExitOk) << first.err;
  EXPECT_THAT(first.out,
              AllOf(HasSubstr("\nloss "), HasSubstr(", held-out "), HasSubstr("\n2 steps in "),
                    HasSubstr("\nmemory: peak "), HasSubstr("model in " + run_ + "/model\n")));
  EXPECT_THAT(first.err, AllOf(HasSubstr("effective configuration"), HasSubstr("step 2/2  loss ")));
  for (const char* file : {"config.textproto", "metrics.jsonl", "loss.svg",
                           "model/model.safetensors", "checkpoints/step-000000000002"}) {
    EXPECT_TRUE(std::filesystem::exists(run_ + "/" + file)) << file;
  }

  // A second time there is no step left, so no memory that was used; what is missing comes back.
  std::filesystem::remove_all(run_ + "/model");
  const Result again = Train();
  EXPECT_EQ(again.code, kExitOk) << again.err;
  EXPECT_THAT(again.out,
              AllOf(HasSubstr("\n2 steps, 0 of them now, in "), Not(HasSubstr("memory: peak"))));
  EXPECT_TRUE(std::filesystem::exists(run_ + "/model/model.safetensors"));

  const Result more = Train({"--steps", "3"});
  EXPECT_EQ(more.code, kExitOk) << more.err;
  EXPECT_THAT(more.err, HasSubstr("going on after step 2"));
}

// Trained with mixed precision, a model is evaluated, exported and read as any other.
TEST_F(TrainCommandTest, TrainsInMixedPrecision) {
  const Result trained = Train({"--set", "execution.precision=BF16"});
  ASSERT_EQ(trained.code, kExitOk) << trained.err;
  const std::string shards = directory_ / "shards";
  const auto loss = [&](const std::string& model, std::vector<std::string> more) {
    std::vector<std::string> words = {"eval", "--model", model, "--shards", shards, "--json"};
    words.insert(words.end(), more.begin(), more.end());
    const Result result = RunMnemo(words);
    EXPECT_EQ(result.code, kExitOk) << result.err;
    return nlohmann::json::parse(result.out)["loss"].get<double>();
  };
  const std::string exported = directory_ / "exported";
  const Result out =
      RunMnemo({"export", "--model", run_ + "/checkpoints/step-000000000002", "--out", exported});
  ASSERT_EQ(out.code, kExitOk) << out.err;
  const double mixed = loss(run_ + "/model", {});
  EXPECT_EQ(loss(exported, {}), mixed);
  const double wide = loss(exported, {"--set", "execution.precision=F32"});
  EXPECT_NE(wide, mixed);
  EXPECT_NEAR(wide / mixed, 1, 1e-2);
  const Result text =
      RunMnemo({"generate", "--model", exported, "--prompt", "abc", "--tokens", "8"});
  EXPECT_EQ(text.code, kExitOk) << text.err;
}

TEST_F(TrainCommandTest, RefusesAnotherModelUntilToldToOverwrite) {
  ASSERT_EQ(Train().code, kExitOk);
  const Result other = Train({"--set", "model.width=32", "--steps", "3"});
  EXPECT_EQ(other.code, kExitError);
  EXPECT_THAT(other.err, AllOf(HasSubstr("model.width"), HasSubstr("--overwrite")));
  const Result overwritten = Train({"--set", "model.width=32", "--overwrite"});
  EXPECT_EQ(overwritten.code, kExitOk) << overwritten.err;
}

TEST_F(TrainCommandTest, WithoutConfigTheCoordinatorDecides) {
  const Result flags = RunMnemo({"train", "--run-dir", run_, "--steps", "3"});
  EXPECT_EQ(flags.code, kExitError);
  EXPECT_THAT(flags.err, HasSubstr("without CONFIG the run is the coordinator's"));
  EXPECT_EQ(RunMnemo({"train", config_}).code, kExitUsage);
}

// No driver, or no CUDA in the build: said before anything is written.
TEST_F(TrainCommandTest, AGpuThatIsNotThereIsOneLine) {
  if (std::filesystem::exists("/dev/nvidia0"))
    GTEST_SKIP() << "this machine has a GPU; the message is for those without";
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{}, std::vector<std::string>{"--no-memory-check"}}) {
    std::vector<std::string> words = {"--set", "execution.device=CUDA"};
    words.insert(words.end(), more.begin(), more.end());
    const Result result = Train(words);
    EXPECT_EQ(result.code, kExitError);
    EXPECT_THAT(result.err, AllOf(HasSubstr(config_ + ": device cuda:0 was asked for, but "),
                                  HasSubstr("execution.device: CPU")));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_FALSE(std::filesystem::exists(run_));
  }
}

}  // namespace
}  // namespace mnemo
