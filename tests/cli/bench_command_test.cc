// bench stability: its verdict is its exit code.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/cli/run_mnemo.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using testing::HasSubstr;

class BenchStabilityTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteText(config_,
              "model { block: LMM layers: 1 width: 32 heads: 1 vocabulary: 264 }\n"
              "train { steps: 1 sequence_length: 64 optimizer { learning_rate: 1e-3 } }\n");
  }
  Result Bench(std::vector<std::string> more) const {
    std::vector<std::string> words = {"bench", "stability", "--config", config_, "--json", json_};
    words.insert(words.end(), more.begin(), more.end());
    return RunMnemo(words);
  }

  const TestDirectory directory_;
  const std::string config_ = directory_ / "a.textproto", json_ = directory_ / "a.json";
};

TEST_F(BenchStabilityTest, PassesWhatIsStable) {
  const Result result = Bench({"--tokens", "512"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("ok"));
  EXPECT_TRUE(nlohmann::json::accept(ReadText(json_)));
}

TEST_F(BenchStabilityTest, FailsWhatExplodes) {
  const Result result =
      Bench({"--tokens", "1536", "--set", "model.memory.gates.alpha_first=0.018", "--set",
             "model.memory.gates.alpha_last=0.018", "--set", "model.memory.gates.alpha_max=0.98"});
  EXPECT_EQ(result.code, kExitError);
  EXPECT_THAT(result.out, HasSubstr("FAIL"));
  EXPECT_TRUE(nlohmann::json::accept(ReadText(json_)));
}

}  // namespace
}  // namespace mnemo
