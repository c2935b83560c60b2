// plan and coordinate: who shares a run, and what they say where nobody can.
#include <gmock/gmock.h>

#include "tests/cli/run_mnemo.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// 8 slices of 16 tokens, 3 wavefronts of 2 micro-batches, 2 layers.
class PlanCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(WriteFileAtomically(
        FileSystem::Posix(), config_,
        "model { block: LMM layers: 2 width: 16 heads: 2 vocabulary: 264\n"
        "        memory { chunk: 16 } }\n"
        "train { steps: 1 sequence_length: 128 slice: 16 micro_batches: 2 accumulation: 3\n"
        "        optimizer { learning_rate: 1e-3 } }\n"));
  }
  Result Plan(std::vector<std::string> more) const {
    more.insert(more.begin(), {"plan", config_});
    return RunMnemo(more);
  }

  TestDirectory directory_;
  const std::string config_ = directory_ / "run.textproto";
};

TEST_F(PlanCommandTest, PrintsTheMeshThatTheRanksGet) {
  const Result one = Plan({});
  EXPECT_EQ(one.code, kExitOk) << one.err;
  EXPECT_THAT(one.out, HasSubstr("dp 1 x sp 1 x tp 1 = 1 rank\n"));
  EXPECT_THAT(one.out, AllOf(Not(HasSubstr("gradient sum")), HasSubstr("100.0 % of the time\n")));
  EXPECT_THAT(Plan({"--ranks", "6"}).out, HasSubstr("dp 6 x sp 1 x tp 1 = 6 ranks\n"));
  const Result four = Plan({"--ranks", "4"});
  EXPECT_EQ(four.code, kExitOk) << four.err;
  EXPECT_THAT(four.out, HasSubstr("dp 2 x sp 2 x tp 1 = 4 ranks\n"));
  EXPECT_THAT(four.out, HasSubstr("3 wavefronts of 1 micro-batch\n"));
  EXPECT_THAT(four.out, HasSubstr("4 slices, 8 units a wavefront\n"));
  EXPECT_THAT(four.out, HasSubstr("2 on the wrap edge, 2 on the others, each way\n"));
  EXPECT_THAT(four.out, HasSubstr("88.9 % of the time\n"));  // 8 / (8 + 2 - 1)
  for (const char* line :
       {"slots  ", "gradient sum  ", "process  ", "a shard of 4", "a layer and hop"}) {
    EXPECT_THAT(four.out, HasSubstr(line));
  }
}

TEST_F(PlanCommandTest, KeepsTheMeshThatIsGiven) {
  const std::vector<std::string> mesh = {"--set", "parallel.sp=4"};
  EXPECT_THAT(Plan(mesh).out, HasSubstr("dp 1 x sp 4 x tp 1 = 4 ranks\n"));
  EXPECT_THAT(Plan(mesh).out, Not(HasSubstr("is above")));
  EXPECT_THAT(Plan({"--ranks", "8", "--set", "parallel.sp=8"}).out,
              HasSubstr(": sp = 8 is above layers x micro-batches = 4\n"));
  EXPECT_THAT(Plan({"--set", "parallel.tp=2"}).out, HasSubstr("dp 1 x sp 1 x tp 2 = 2 ranks\n"));
}

// On a machine without one: nothing of the CPU's, and the bf16 copies of the weights.
TEST_F(PlanCommandTest, PlansForAGpu) {
  const Result gpu = Plan({"--set", "execution.device=CUDA"});
  EXPECT_EQ(gpu.code, kExitOk) << gpu.err;
  EXPECT_THAT(gpu.out, AllOf(HasSubstr("compute copies  "), HasSubstr("workspace  "),
                             Not(HasSubstr("process  ")), Not(HasSubstr("kept for reuse  "))));
}

TEST_F(PlanCommandTest, RefusesInOneLine) {
  const auto expect = [](const Result& result, const std::vector<std::string>& words) {
    EXPECT_EQ(result.code, kExitError);
    for (const std::string& word : words) EXPECT_THAT(result.err, HasSubstr(word));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  };
  expect(Plan({"--ranks", "11"}), {config_ + ": no mesh of 11 ranks is possible",
                                   "dp 11 x sp 1 x tp 1: 11 replicas", "10 ranks would do"});
  expect(Plan({"--ranks", "3", "--set", "parallel.sp=2"}), {"start a multiple of 2"});
  expect(Plan({"--set", "parallel.tp=3"}), {"parallel.tp = 3"});
  expect(Plan({"--memory", "0.001"}), {"above the limit of 1.0 MiB"});
  expect(Plan({"--ranks", "2", "--set", "model.block=TRANSFORMER", "--set", "train.slice=128",
               "--set", "train.micro_batches=1", "--set", "train.accumulation=1"}),
         {"attention without a window"});
}

TEST_F(PlanCommandTest, TheCoordinatorRefusesTheSame) {
  ASSERT_OK(FileSystem::Posix().MakeDirectories(directory_ / "shards"));
  WriteShard(directory_ / "shards/train-0.h5", RandomDocuments(9, 200, 256, 1), TestTokenizer());
  const Result result = RunMnemo({"coordinate", config_, "--shards", directory_ / "shards",
                                  "--run-dir", directory_ / "run", "--workers", "11"});
  EXPECT_EQ(result.code, kExitError);
  EXPECT_THAT(result.err, HasSubstr(config_ + ": no mesh of 11 ranks is possible"));
}

}  // namespace
}  // namespace mnemo
