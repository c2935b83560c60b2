// bench stability: its verdict is its exit code. bench step and memory: what they measure is in the
// JSON.
#include <gmock/gmock.h>

#include <filesystem>
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

TEST(BenchMemoryTest, TimesTheScanOnTheCpu) {
  const TestDirectory directory;
  const std::string json = directory / "a.json";
  const Result result = RunMnemo({"bench", "memory", "--heads", "1", "--head-dim", "8", "--chunk",
                                  "16", "--tokens", "64", "--iterations", "1", "--json", json});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("forward+backward"));
  EXPECT_GT(nlohmann::json::parse(ReadText(json))["forward"]["tokens_per_second"], 0);
}

TEST(BenchMemoryTest, SaysWhatItCannotDoBeforeItMeasures) {
  const std::pair<const char*, const char*> cpu_only[] = {
      {"--dtype", "f64"}, {"--threads", "1"}, {"--iterations", "2"}};
  for (const auto& [option, value] : cpu_only) {
    const Result gpu = RunMnemo({"bench", "memory", "--device", "cuda", option, value});
    EXPECT_EQ(gpu.code, kExitError);
    EXPECT_THAT(gpu.err, HasSubstr(std::string(option) + " is for --device cpu alone"));
  }
  const Result cpu = RunMnemo({"bench", "memory", "--compare"});
  EXPECT_EQ(cpu.code, kExitError);
  EXPECT_THAT(cpu.err, HasSubstr("need --device cuda"));
  for (const char* file : {"--json", "--plot"}) {
    const Result gpu = RunMnemo({"bench", "memory", "--device", "cuda", file, "/none/a"});
    EXPECT_EQ(gpu.code, kExitError);
    EXPECT_THAT(gpu.err, HasSubstr("/none/a"));
  }
}

// Ten seconds of measuring are not for every day: the picture is drawn from a result.
TEST(BenchOpsTest, DrawsWhatAResultHolds) {
  const TestDirectory directory;
  const std::string json = directory / "ops.json", svg = directory / "ops.svg";
  WriteText(json,
            "{\"bench\": \"ops\", \"device\": \"cuda:0\", \"dtype\": \"bf16\",\n"
            " \"gemm_peak_flops\": 1e14, \"copy_bytes_per_second\": 1e12, \"ops\": [\n"
            " {\"op\": \"rotate, forward\", \"shape\": \"[2]\", \"model\": \"375M\",\n"
            "  \"kind\": \"fused forward\", \"seconds\": 4.0, \"flops\": 1e12,\n"
            "  \"bytes\": 3e12, \"composed\": false}]}");
  const Result result = RunMnemo({"bench", "ops", "--from", json, "--plot", svg});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(ReadText(svg), HasSubstr("rotate, forward"));
  EXPECT_THAT(ReadText(svg), HasSubstr("75 %"));
  WriteText(json, "{\"bench\": \"step\"}");
  const Result wrong = RunMnemo({"bench", "ops", "--from", json, "--plot", svg});
  EXPECT_EQ(wrong.code, kExitError);
  EXPECT_THAT(wrong.err, HasSubstr(json + ": not a result of `mnemo bench ops`"));
}

// Files of less than a MiB, so that it also runs where no cache can be dropped.
TEST(BenchCkptTest, MeasuresBesidePlainFilesAndCleansUp) {
  const TestDirectory directory;
  const std::string json = directory / "a.json", disk = directory / "disk",
                    config = directory / "a.textproto";
  WriteText(config,
            "model { block: LMM layers: 1 width: 32 heads: 1 vocabulary: 264 }\n"
            "train { steps: 1 sequence_length: 64 optimizer { learning_rate: 1e-3 } }\n");
  const Result result = RunMnemo({"bench", "ckpt", "--dir", disk, "--bytes", "500KB", "--ranks",
                                  "2", "--rounds", "2", "--compare", "--python", "/none/python",
                                  "--config", config, "--steps", "2", "--json", json});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("| save | "));
  EXPECT_THAT(result.out, HasSubstr("PyTorch: skipped: "));
  const nlohmann::json written = nlohmann::json::parse(ReadText(json));
  std::vector<std::string> names;
  for (const nlohmann::json& one : written["measured"]) {
    names.push_back(one["name"]);
    const bool repeated = one["name"] != "first snapshot";
    EXPECT_GE(one["seconds"].size(), repeated ? 2u : 1u);
    EXPECT_GT(one["bytes_per_second"], 0);
    EXPECT_GE(one["plain"].size(), 1u);
  }
  EXPECT_THAT(names, testing::ElementsAre("first snapshot", "snapshot", "digest", "save",
                                          "load, digests checked", "verify, all digests"));
  EXPECT_EQ(written["measured"][3]["required"], 0.8);
  EXPECT_EQ(written["measured"][3]["plain"].size(), 2u) << "one file, and one a rank";
  EXPECT_GT(written["training"]["steps_while_saving"], 1);
  EXPECT_GT(written["training"]["saved_bytes"], 0);
  EXPECT_TRUE(std::filesystem::is_empty(disk)) << "nothing stays on the disk";
}

TEST(BenchCkptTest, SaysWhatItCannotDo) {
  EXPECT_THAT(RunMnemo({"bench", "ckpt"}).err, HasSubstr("--dir is required"));
  EXPECT_THAT(RunMnemo({"bench", "ckpt", "--dir", "/proc/none", "--bytes", "1MB"}).err,
              HasSubstr("/proc/none"));
  EXPECT_THAT(RunMnemo({"bench", "ckpt", "--dir", "/tmp", "--device", "cuda", "--compare"}).err,
              HasSubstr("--compare is for --device cpu"));
}

class BenchStepTest : public testing::Test {
 protected:
  const TestDirectory directory_;
  const std::string config_ = directory_ / "a.textproto", json_ = directory_ / "a.json";
};

TEST_F(BenchStepTest, TimesStepsAndTheirPhases) {
  WriteText(config_,
            "model { block: LMM layers: 1 width: 32 heads: 1 vocabulary: 264 }\n"
            "train { steps: 1 sequence_length: 64 sequences: 2 accumulation: 2\n"
            "        optimizer { learning_rate: 1e-3 } }\n");
  const Result result = RunMnemo({"bench", "step", config_, "--timed", "3", "--warmup", "1",
                                  "--phases", "--peak-tflops", "0.1", "--json", json_});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("tokens/s"));
  EXPECT_THAT(result.out, HasSubstr("% of what large products reach here"));
  EXPECT_THAT(result.out, HasSubstr("% of --peak-tflops, 0.1 TFLOP/s"));
  const nlohmann::json json = nlohmann::json::parse(ReadText(json_));
  EXPECT_EQ(json["tokens"], 2 * 2 * 64);
  EXPECT_EQ(json["peak_flops"], 1e11);
  EXPECT_EQ(json["share_of_peak"], json["model_flops_per_second"].get<double>() / 1e11);
  EXPECT_GT(json["share_of_gemm_peak"], 0);
  EXPECT_EQ(json["seconds"].size(), 3u);
  double phases = 0;
  for (const auto& [name, seconds] : json["phases"].items()) phases += seconds.get<double>();
  // Medians of the parts and of the whole need not add up, but they are of one size.
  EXPECT_GT(phases, 0.3 * json["median_seconds"].get<double>());
  EXPECT_LT(phases, 3 * json["median_seconds"].get<double>());
  EXPECT_TRUE(json["phases"].contains("forward"));
  EXPECT_TRUE(json["phases"].contains("backward"));
  EXPECT_GT(json["peak_tensor_bytes"], json["parameters"]);
  EXPECT_TRUE(json["fused"].contains("memory_scan"));
}

}  // namespace
}  // namespace mnemo
