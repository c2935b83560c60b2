#include "src/job/training_run.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "src/core/config_text.h"
#include "src/core/status.h"
#include "src/model/saved_model.h"
#include "src/parallel/thread_transport.h"
#include "tests/data/data_test_util.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class TrainingRunTest : public testing::Test {
 protected:
  TrainingRunTest() {
    std::filesystem::create_directories(directory_ / "data");
    WriteShard(directory_ / "data/train-00000.h5", RandomDocuments(40, 60, 256, 1),
               TestTokenizer());
    WriteShard(directory_ / "data/eval-00000.h5", RandomDocuments(5, 60, 256, 2), TestTokenizer());
    options_.written = TinyRun();
    options_.written.mutable_data()->add_shards(directory_ / "data");
    options_.config_name = "tiny.textproto";
    options_.run_directory = directory_ / "run";
    options_.measure_machine = false;
  }

  std::vector<nlohmann::json> Metrics() const {
    std::istringstream lines(ReadText(options_.run_directory + "/metrics.jsonl"));
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  }

  TestDirectory directory_;
  TrainingRunOptions options_;
};

TEST_F(TrainingRunTest, WritesConfigurationMetricsCurveAndModel) {
  int started = 0, steps = 0;
  options_.on_start = [&](const v1::RunConfig& config, const v1::Plan& plan, int64_t) {
    ++started;
    EXPECT_EQ(config.model().vocabulary(), 264);
    EXPECT_GT(plan.memory().total(), 0);
  };
  options_.on_step = [&](const v1::StepMetrics& metrics) { EXPECT_EQ(metrics.step(), ++steps); };
  options_.measure_machine = true;
  const auto result = RunTraining(options_);
  ASSERT_OK(result);
  EXPECT_EQ(started, 1);
  EXPECT_EQ(steps, 6);
  EXPECT_EQ(result->steps, 6);
  EXPECT_FALSE(result->stopped);
  EXPECT_EQ(result->losses.train.size(), 6u);

  v1::RunConfig echoed;
  ASSERT_OK(
      LoadConfigFile(FileSystem::Posix(), options_.run_directory + "/config.textproto", &echoed));
  EXPECT_EQ(echoed.model().vocabulary(), 264);
  EXPECT_EQ(echoed.train().optimizer().beta2(), 0.95);  // a default, filled in
  const std::vector<nlohmann::json> metrics = Metrics();
  ASSERT_EQ(metrics.size(), 6u);
  EXPECT_EQ(metrics[5]["step"], 6);
  EXPECT_EQ(metrics[5]["loss"], result->losses.train[5].loss);
  EXPECT_GT(metrics[5]["speed_of_light_share"], 0);
  EXPECT_THAT(ReadText(options_.run_directory + "/loss.svg"), HasSubstr("<svg"));
  const auto model = LoadModel(FileSystem::Posix(), result->model_directory);
  ASSERT_OK(model);
  EXPECT_EQ(model->spec.vocabulary, 264);
}

TEST_F(TrainingRunTest, TwoRunsGiveTheSameLosses) {
  ASSERT_OK(RunTraining(options_));
  const std::vector<nlohmann::json> first = Metrics();
  options_.overwrite = true;
  ASSERT_OK(RunTraining(options_));
  const std::vector<nlohmann::json> second = Metrics();
  ASSERT_EQ(first.size(), second.size());
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i]["loss"], second[i]["loss"]);
    EXPECT_EQ(first[i]["gradient_norm"], second[i]["gradient_norm"]);
  }
}

TEST_F(TrainingRunTest, LogsEveryNthStepAndBothEnds) {
  options_.written.mutable_train()->set_log_every(4);
  ASSERT_OK(RunTraining(options_));
  std::vector<int> steps;
  for (const nlohmann::json& line : Metrics()) steps.push_back(line["step"]);
  EXPECT_EQ(steps, (std::vector<int>{1, 4, 6}));
}

TEST_F(TrainingRunTest, EvaluatesOnHeldOutText) {
  options_.written.mutable_data()->add_evaluation(directory_ / "data");
  options_.written.mutable_train()->set_evaluate_every(4);
  const auto result = RunTraining(options_);
  ASSERT_OK(result);
  std::vector<int> steps;
  for (const nlohmann::json& line : Metrics()) {
    if (line.contains("evaluation_loss")) steps.push_back(line["step"]);
  }
  EXPECT_EQ(steps, (std::vector<int>{4, 6}));
  ASSERT_EQ(result->losses.held_out.size(), 2u);
  EXPECT_NEAR(result->losses.held_out[0].loss, std::log(264.0), 1);
}

// Without a hold-out a directory has nothing to evaluate on but what it trains on.
TEST_F(TrainingRunTest, RefusesToEvaluateOnWhatItTrainsOn) {
  options_.written.mutable_data()->add_evaluation(directory_ / "data");
  std::filesystem::remove(directory_ / "data/eval-00000.h5");
  EXPECT_THAT(Failure(RunTraining(options_)),
              AllOf(HasSubstr("tiny.textproto: data.evaluation takes "),
                    HasSubstr("data/train-00000.h5, which data.shards trains on"),
                    HasSubstr("mnemo data prepare --holdout"), HasSubstr("--eval-shards")));
  EXPECT_FALSE(std::filesystem::exists(options_.run_directory));
  // A directory of its own needs no prefix.
  std::filesystem::create_directory(directory_ / "other");
  WriteShard(directory_ / "other/train-00000.h5", RandomDocuments(5, 60, 256, 2), TestTokenizer());
  options_.written.mutable_data()->set_evaluation(0, directory_ / "other");
  ASSERT_OK(RunTraining(options_));
}

TEST_F(TrainingRunTest, DocumentsWithFreshState) {
  for (v1::Block block : {v1::LMM, v1::MAC, v1::MAG, v1::TRANSFORMER}) {
    v1::RunConfig written = TinyRun(block);
    *written.mutable_data() = options_.written.data();
    written.mutable_data()->set_document_reset(v1::CHUNK);
    options_.written = written;
    options_.overwrite = true;
    const auto result = RunTraining(options_);
    ASSERT_OK(result);
    EXPECT_EQ(result->steps, 6);
  }
}

TEST_F(TrainingRunTest, AStopWritesTheModel) {
  int steps = 0;
  options_.wishes = [&] { return StepWishes{.stop = ++steps == 2}; };
  const auto result = RunTraining(options_);
  ASSERT_OK(result);
  EXPECT_TRUE(result->stopped);
  EXPECT_EQ(result->steps, 2);
  EXPECT_EQ(Metrics().size(), 2u);
  ASSERT_OK(LoadModel(FileSystem::Posix(), result->model_directory));
}

// A request to stop does not wait for the rest of the held-out text.
TEST_F(TrainingRunTest, AStopCutsAnEvaluationShort) {
  options_.written.mutable_data()->add_evaluation(directory_ / "data");
  options_.written.mutable_train()->set_evaluate_every(1);
  int asked = 0;
  options_.wishes = [&] {
    return StepWishes{.stop = ++asked == 1};
  };  // in the evaluation of the first step
  const auto result = RunTraining(options_);
  ASSERT_OK(result);
  EXPECT_TRUE(result->stopped);
  EXPECT_EQ(result->steps, 1);
  EXPECT_TRUE(result->losses.held_out.empty());
  ASSERT_EQ(Metrics().size(), 1u);
  EXPECT_FALSE(Metrics()[0].contains("evaluation_loss"));
  ASSERT_OK(LoadModel(FileSystem::Posix(), result->model_directory));
}

TEST_F(TrainingRunTest, ARunThatCannotFitIsRefused) {
  options_.available_bytes = 5 << 10;
  EXPECT_THAT(Failure(RunTraining(options_)),
              AllOf(HasSubstr("tiny.textproto: needs "), HasSubstr("5.0 KiB"),
                    HasSubstr(" are missing; even train.rematerialize: SLICES would need "),
                    HasSubstr("--no-memory-check")));
  EXPECT_FALSE(std::filesystem::exists(options_.run_directory));
  options_.check_memory = false;
  ASSERT_OK(RunTraining(options_));
}

TEST_F(TrainingRunTest, AFinishedRunIsNotTrainedOver) {
  ASSERT_OK(RunTraining(options_));
  const std::string before = ReadText(options_.run_directory + "/metrics.jsonl");
  EXPECT_THAT(Failure(RunTraining(options_)), HasSubstr("holds a run that has ended"));
  EXPECT_EQ(ReadText(options_.run_directory + "/metrics.jsonl"), before);
}

// A disk that has no room for more metrics while it is full, but for half a line.
class FullForMetrics : public FailingFileSystem {
 public:
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string& path) override {
    MNEMO_ASSIGN_OR_RETURN(auto file, FailingFileSystem::OpenAppend(path));
    return std::make_unique<File>(std::move(file), full);
  }
  bool full = false;

 private:
  class File : public WritableFile {
   public:
    File(std::unique_ptr<WritableFile> file, const bool& full)
        : file_(std::move(file)), full_(full) {}
    absl::Status Append(std::string_view bytes) override {
      if (!full_) return file_->Append(bytes);
      MNEMO_RETURN_IF_ERROR(file_->Append(bytes.substr(0, bytes.size() / 2)));
      return absl::ResourceExhaustedError("cannot write metrics: disk full");
    }
    absl::Status Sync() override {
      return full_ ? absl::ResourceExhaustedError("cannot sync metrics: disk full") : file_->Sync();
    }
    absl::Status Close() override { return file_->Close(); }

   private:
    const std::unique_ptr<WritableFile> file_;
    const bool& full_;
  };
};

// Metrics are worth less than training; so nothing ends, but their gap is said.
TEST_F(TrainingRunTest, AMetricsLineThatCannotBeWrittenIsSaidAndTrainingGoesOn) {
  ASSERT_OK(RunTraining(options_));
  const std::vector<nlohmann::json> whole = Metrics();
  for (const int until : {4, 100}) {  // there is room again, or never
    FullForMetrics disk;
    options_.fs = &disk;
    options_.run_directory = directory_ / fmt::format("until-{}", until);
    options_.written.mutable_train()->set_checkpoint_every(1);
    options_.on_step = [&](const v1::StepMetrics& metrics) {
      disk.full = metrics.step() >= 2 && metrics.step() < until;
    };
    options_.on_start = nullptr;
    if (until == 100) {
      // What comes after the last step has room, so that the run itself ends well.
      options_.on_phase = [&](int64_t, std::string_view phase) {
        if (phase == "model") disk.full = false;
      };
    }
    testing::internal::CaptureStderr();
    const auto result = RunTraining(options_);
    const std::string log = testing::internal::GetCapturedStderr();
    ASSERT_OK(result);
    EXPECT_EQ(result->steps, 6);
    EXPECT_EQ(result->losses.train.size(), 6u);
    std::vector<nlohmann::json> lines;
    std::istringstream text(ReadText(options_.run_directory + "/metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      lines.push_back(nlohmann::json::parse(line, nullptr, until == 4));
    }
    const size_t said = log.find("STEP 2 IS NOT RECORDED: cannot write metrics: disk full");
    ASSERT_NE(said, std::string::npos) << log;
    EXPECT_EQ(log.find("IS NOT RECORDED", said + 20), std::string::npos) << log;
    EXPECT_THAT(log, HasSubstr("cannot sync metrics: disk full; training goes on"));
    EXPECT_EQ(lines[0]["loss"], whole[0]["loss"]);
    if (until == 4) {
      ASSERT_EQ(lines.size(), 4u);
      for (int step = 4; step <= 6; ++step) {
        EXPECT_EQ(lines[step - 3]["step"], step);
        EXPECT_EQ(lines[step - 3]["loss"], whole[step - 1]["loss"]);
      }
      EXPECT_THAT(log,
                  HasSubstr("is written again, from step 4 on; the 2 lines before are missing"));
    } else {
      EXPECT_EQ(lines.size(), 2u);  // the second is half
      EXPECT_THAT(log, HasSubstr("misses its last 5 lines"));
    }
  }
}

// A rank that never answers does not hold up the others for longer than they were told to wait.
TEST_F(TrainingRunTest, WaitsForOtherRanksAsLongAsConfigured) {
  options_.written.mutable_parallel()->set_dp(2);
  options_.written.mutable_parallel()->set_timeout_seconds(1);
  options_.written.mutable_train()->set_accumulation(2);
  const auto begin = std::chrono::steady_clock::now();
  {
    ThreadWorld world(2);
    options_.transport = &world.rank(0);
    EXPECT_FALSE(RunTraining(options_).ok());  // the other has not come
  }
  ThreadWorld world(2);
  std::promise<void> ended;
  std::thread other([&, options = options_, wait = ended.get_future()]() mutable {
    options.transport = &world.rank(1);
    options.on_phase = [&](int64_t step, std::string_view phase) {
      if (step == 2 && phase == "forward") wait.wait();
    };
    EXPECT_FALSE(RunTraining(options).ok());
  });
  options_.transport = &world.rank(0);
  EXPECT_FALSE(RunTraining(options_).ok());
  ended.set_value();
  other.join();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

// Wherever the disk fills up, the message says so and no half model is left under its name.
TEST_F(TrainingRunTest, AFullDiskIsOneClearError) {
  // The configuration, the metrics of the first and a later step, the model.
  for (int64_t appends : {0, 1, 2, 4, 7, 9, 30, 100000}) {
    FailingFileSystem full;
    full.appends_left = appends;
    options_.fs = &full;
    options_.run_directory = directory_ / ("full-" + std::to_string(appends));
    const auto result = RunTraining(options_);
    const bool model = std::filesystem::exists(options_.run_directory + "/model");
    EXPECT_EQ(result.ok(), appends == 100000);
    EXPECT_EQ(model, result.ok());
    if (!result.ok()) {
      EXPECT_THAT(std::string(result.status().message()), HasSubstr("disk full")) << appends;
    } else {
      ASSERT_OK(LoadModel(FileSystem::Posix(), result->model_directory));
    }
  }
}

// A deep memory without layer norm and with the strongest writes overflows in the first step.
TEST_F(TrainingRunTest, ARunThatStaysNonFiniteRecordsItsStepsAndHasNoModel) {
  const v1::RunConfig sane = options_.written;
  v1::MemoryConfig& memory = *options_.written.mutable_model()->mutable_memory();
  memory.set_depth(4);
  memory.set_layer_norm(false);
  memory.set_clamp(1e6);
  memory.mutable_gates()->set_theta_max(100);
  options_.written.mutable_train()->set_log_every(100);
  int steps = 0;
  options_.on_step = [&](const v1::StepMetrics& metrics) { EXPECT_EQ(metrics.step(), ++steps); };
  EXPECT_THAT(Failure(RunTraining(options_)),
              AllOf(HasSubstr("step 5: "), HasSubstr("5 steps in a row"),
                    HasSubstr("train.optimizer.learning_rate")));
  EXPECT_EQ(steps, 5);
  const std::vector<nlohmann::json> metrics = Metrics();
  ASSERT_EQ(metrics.size(), 5u);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(metrics[i]["step"], i + 1);
    EXPECT_EQ(metrics[i]["skipped"], true);
    EXPECT_EQ(metrics[i]["skipped_steps"], i + 1);
  }
  EXPECT_FALSE(std::filesystem::exists(options_.run_directory + "/model"));
  options_.written = sane;
  options_.on_step = nullptr;
  options_.overwrite = true;
  ASSERT_OK(RunTraining(options_));
}

// The damage is found when the shard is first read, well into the run: what was learned is kept.
TEST_F(TrainingRunTest, ADamagedShardIsNamedAndTheModelKept) {
  const std::string path = directory_ / "data/train-00001.h5";
  const std::string marker = std::string("m\0a\0r\0k", 7);
  Documents documents = RandomDocuments(5, 60, 256, 3);
  documents.push_back({'m', 'a', 'r', 'k'});
  WriteShard(path, documents, TestTokenizer());
  std::string bytes = ReadText(path);
  ASSERT_NE(bytes.find(marker), std::string::npos);
  bytes[bytes.find(marker)] ^= 4;
  WriteText(path, bytes);
  options_.written.mutable_train()->set_steps(200);  // all of the text
  const std::string message = Failure(RunTraining(options_));
  EXPECT_THAT(message, AllOf(HasSubstr(path + ": block 0 of tokens"), HasSubstr("is damaged")));
  const size_t steps = Metrics().size();
  ASSERT_GT(steps, 1u);
  const std::string model = options_.run_directory + "/model";
  EXPECT_THAT(message, HasSubstr(fmt::format("; the model as of step {} is in {}", steps, model)));
  ASSERT_OK(LoadModel(FileSystem::Posix(), model));
  EXPECT_THAT(Failure(RunTraining(options_)), HasSubstr("holds a run that has ended"));
}

TEST_F(TrainingRunTest, BadInputIsNamed) {
  options_.written.mutable_model()->set_vocabulary(100);
  EXPECT_THAT(
      Failure(RunTraining(options_)),
      AllOf(HasSubstr("tiny.textproto"), HasSubstr("model.vocabulary = 100"), HasSubstr("264")));
  options_.written.mutable_model()->set_vocabulary(0);
  options_.written.mutable_parallel()->set_sp(2);
  EXPECT_THAT(Failure(RunTraining(options_)),
              AllOf(HasSubstr("tiny.textproto: "), HasSubstr("sp = 2")));
  options_.written.clear_parallel();
  options_.written.mutable_data()->add_evaluation(directory_ / "other.h5");
  WriteShard(directory_ / "other.h5", RandomDocuments(5, 60, 200, 2), TestTokenizer(300));
  EXPECT_THAT(Failure(RunTraining(options_)), HasSubstr("another tokenizer"));
  options_.written.mutable_data()->clear_evaluation();
  options_.written.mutable_train()->set_sequence_length(1 << 20);
  options_.written.mutable_train()->set_slice(1 << 20);
  EXPECT_FALSE(RunTraining(options_).ok());
  options_.written.mutable_data()->clear_shards();
  EXPECT_THAT(Failure(RunTraining(options_)), HasSubstr("--shards"));
  EXPECT_FALSE(std::filesystem::exists(options_.run_directory));
}

}  // namespace
}  // namespace mnemo
