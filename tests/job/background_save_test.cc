// Checkpoints that are written while training goes on: they hold the step that was saved, the run
// is the same, one at a time is written, and one that fails harms nothing.
#include <condition_variable>
#include <mutex>

#include "tests/job/training_mesh_fixture.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Holds back the creation of a file, or lets it fail.
class Gate : public FailingFileSystem {
 public:
  // What happens to files whose path ends so.
  explicit Gate(const std::string& file, absl::Status outcome = {})
      : file_(file), outcome_(std::move(outcome)) {}

  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    if (path.ends_with(file_)) {
      std::unique_lock lock(mutex_);
      opened_.wait_for(lock, std::chrono::seconds(60), [&] { return open_; });
      MNEMO_RETURN_IF_ERROR(outcome_);
    }
    return FailingFileSystem::Create(path);
  }

 private:
  const std::string file_;
  const absl::Status outcome_;
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

class BackgroundSaveTest : public TrainingMeshTest {
 protected:
  BackgroundSaveTest() {
    config_.mutable_train()->set_checkpoint_every(2);
    config_.mutable_train()->set_checkpoint_keep(9);
  }
  // What the last rank writes for a step.
  static std::string LastFile(int64_t step) {
    return fmt::format("step-{:012}.tmp/rank-{:05}.h5", step, GetParam().size() - 1);
  }
  static auto OnLastRank(FileSystem& fs) {
    return [&fs](int rank, TrainingRunOptions& options) {
      if (rank == GetParam().size() - 1) options.fs = &fs;
    };
  }
  static std::thread OpenSoon(Gate& gate) {
    return std::thread([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      gate.Open();
    });
  }
  bool HasCheckpoint(int64_t step) const {
    return std::filesystem::exists(fmt::format("{}/checkpoints/step-{:012}", Run("run"), step));
  }
};
INSTANTIATE_TEST_SUITE_P(Meshes, BackgroundSaveTest,
                         testing::Values(Mesh{1, 1, 1}, Mesh{2, 2, 1}, Mesh{1, 1, 2}), NameOfMesh);

// Written two steps late: what is written is the step that was saved, not what has come of it.
TEST_P(BackgroundSaveTest, HoldsTheStepThatWasSavedAndTheRunIsTheSame) {
  config_.mutable_train()->set_checkpoint_every(3);
  ASSERT_OK(Train(Options("whole")));
  config_.mutable_train()->set_checkpoint_async(false);
  ASSERT_OK(Train(Options("waiting")));
  config_.mutable_train()->clear_checkpoint_async();
  Gate gate(LastFile(3));
  TrainingRunOptions options = Options("run");
  int64_t steps_before = 0;
  options.on_logged = [&](const v1::StepMetrics& metrics) {
    if (metrics.step() != 5) return;
    EXPECT_FALSE(HasCheckpoint(3));
    steps_before = metrics.step() - 3;
    gate.Open();
  };
  ASSERT_OK(Train(options, OnLastRank(gate)));
  EXPECT_EQ(steps_before, 2);
  EXPECT_THAT(Checkpoints("run"), ElementsAre(3, 6));
  ExpectSameRun("whole", "run");
  for (int64_t step : {3, 6}) {
    for (int rank = 0; rank < GetParam().size(); ++rank) {
      const std::string file = fmt::format("/checkpoints/step-{:012}/rank-{:05}.h5", step, rank);
      EXPECT_EQ(ReadText(Run("run") + file), ReadText(Run("waiting") + file)) << file;
    }
  }
  // From the copy, bitwise the run that was never interrupted.
  std::filesystem::remove_all(Run("run") + "/model");
  std::filesystem::remove_all(Run("run") + "/checkpoints/step-000000000006");
  const auto rest = Train(Options("run"));
  ASSERT_OK(rest);
  EXPECT_EQ(rest->first_step, 3);
  ExpectSameRun("whole", "run");
}

TEST_P(BackgroundSaveTest, ASecondSaveWaitsForTheFirstAndTheWaitIsMeasured) {
  Gate gate(LastFile(2));
  TrainingRunOptions options = Options("run");
  std::vector<int64_t> saved;
  std::thread opener;
  options.on_save = [&](const v1::CheckpointReport& report) {
    EXPECT_EQ(report.error(), "");
    saved.push_back(report.step());
  };
  options.on_logged = [&](const v1::StepMetrics& metrics) {
    EXPECT_EQ(HasCheckpoint(2), metrics.step() > 4) << metrics.step();
    if (metrics.step() == 4) opener = OpenSoon(gate);
  };
  const auto result = Train(options, OnLastRank(gate));
  opener.join();
  ASSERT_OK(result);
  EXPECT_THAT(saved, ElementsAre(2, 4, 6));
  const auto lines = Metrics("run");
  ASSERT_EQ(lines.size(), 6u);
  const auto seconds = [&](int64_t step, const char* what) {
    return lines[step - 1]["seconds"][what].get<double>();
  };
  EXPECT_EQ(seconds(2, "checkpoint"), 0) << "before the first save";
  EXPECT_GT(seconds(3, "checkpoint"), 0) << "the copy";
  EXPECT_LT(seconds(3, "checkpoint_wait"), 0.1);
  EXPECT_EQ(seconds(4, "checkpoint"), 0) << "training went on";
  EXPECT_GT(seconds(5, "checkpoint_wait"), 0.1);
  EXPECT_GT(seconds(5, "checkpoint"), seconds(5, "checkpoint_wait"));
  EXPECT_EQ(seconds(6, "checkpoint"), 0);
}

TEST_P(BackgroundSaveTest, AFailedOneIsToldAndCountedAndTrainingGoesOn) {
  Gate full(LastFile(2), absl::ResourceExhaustedError("cannot create: disk full"));
  full.Open();
  TrainingRunOptions options = Options("run");
  std::vector<std::string> errors;
  options.on_save = [&](const v1::CheckpointReport& report) { errors.push_back(report.error()); };
  testing::internal::CaptureStderr();
  const auto result = Train(options, OnLastRank(full));
  const std::string log = testing::internal::GetCapturedStderr();
  ASSERT_OK(result);
  EXPECT_THAT(log, AllOf(HasSubstr("STEP 2 IS NOT SAVED: "), HasSubstr("disk full"),
                         HasSubstr("training goes on, there is no checkpoint yet")));
  EXPECT_THAT(errors, ElementsAre(HasSubstr("disk full"), "", ""));
  EXPECT_THAT(Checkpoints("run"), ElementsAre(4, 6));
  const auto lines = Metrics("run");
  EXPECT_EQ(lines[1]["failed_saves"], 0);
  EXPECT_EQ(lines[4]["failed_saves"], 1) << "noticed by the next save at the latest";
  EXPECT_EQ(result->failed_saves, 1);
}

// Also where it is not one that the run relies on.
TEST_P(BackgroundSaveTest, AnEndWaitsForIt) {
  Gate gate(LastFile(2));
  std::thread opener;
  TrainingRunOptions options = Options("run");
  options.on_logged = [&](const v1::StepMetrics& metrics) {
    if (metrics.step() == 3) opener = OpenSoon(gate);
  };
  const auto stop = Wish(3, {.stop = true});
  const auto result = Train(options, [&](int rank, TrainingRunOptions& own) {
    OnLastRank(gate)(rank, own);
    stop(rank, own);
  });
  opener.join();
  ASSERT_OK(result);
  EXPECT_EQ(result->steps, 3);
  EXPECT_THAT(Checkpoints("run"), ElementsAre(2));
  EXPECT_EQ(result->checkpoint, Run("run") + "/checkpoints/step-000000000002");
}

TEST_P(BackgroundSaveTest, RanksWaitForASlowDiskBeyondTheTimeout) {
  if (GetParam().size() == 1) GTEST_SKIP() << "one rank waits for nobody";
  config_.mutable_parallel()->set_timeout_seconds(2);
  const std::pair<std::string, std::string> slow_files[] = {
      {"a", LastFile(2)}, {"b", "step-000000000004.tmp/manifest.pb.tmp"}};
  for (const auto& [run, slow] : slow_files) {
    Gate gate(slow);
    std::thread opener([&] {
      std::this_thread::sleep_for(std::chrono::seconds(5));
      gate.Open();
    });
    const auto result = Train(Options(run), [&](int, TrainingRunOptions& own) { own.fs = &gate; });
    opener.join();
    ASSERT_OK(result);
    EXPECT_EQ(result->failed_saves, 0);
    EXPECT_THAT(Checkpoints(run), ElementsAre(2, 4, 6));
  }
}

// Of a run that saves only when it is asked to, no memory is planned for a copy.
TEST_P(BackgroundSaveTest, WithoutAPlannedCopyASaveIsWaitedFor) {
  config_.mutable_train()->clear_checkpoint_every();
  Gate gate(LastFile(2));
  std::thread opener;
  TrainingRunOptions options = Options("run");
  options.on_logged = [&](const v1::StepMetrics& metrics) {
    EXPECT_EQ(HasCheckpoint(2), metrics.step() > 2) << metrics.step();
    if (metrics.step() == 2) opener = OpenSoon(gate);
  };
  const auto save = Wish(2, {.save = true});
  const auto result = Train(options, [&](int rank, TrainingRunOptions& own) {
    OnLastRank(gate)(rank, own);
    save(rank, own);
  });
  opener.join();
  ASSERT_OK(result);
  EXPECT_THAT(Checkpoints("run"), ElementsAre(2, 6));
}

}  // namespace
}  // namespace mnemo
