// A run that was interrupted and goes on is, bit by bit, the run that was not.
#include <atomic>
#include <set>
#include <thread>

#include "src/ckpt/checkpoint_reshard.h"
#include "src/model/saved_model.h"
#include "tests/job/training_mesh_fixture.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// With one rank, and with many.
class TrainingResumeTest : public TrainingMeshTest {};

INSTANTIATE_TEST_SUITE_P(Meshes, TrainingResumeTest,
                         testing::Values(Mesh{1, 1, 1}, Mesh{2, 2, 1}, Mesh{1, 1, 2}), NameOfMesh);

TEST_P(TrainingResumeTest, AfterAStop) {
  ASSERT_OK(Train(Options("whole")));
  ASSERT_EQ(Checkpoints("whole"), (std::vector<int64_t>{6}));
  const auto half = Train(Options("halves"), Wish(3, {.stop = true, .save = true}));
  ASSERT_OK(half);
  EXPECT_TRUE(half->stopped);
  EXPECT_EQ(half->steps, 3);
  EXPECT_EQ(half->checkpoint, Run("halves") + "/checkpoints/step-000000000003");
  EXPECT_EQ(Metrics("halves").size(), 3u);
  ASSERT_OK(LoadModel(FileSystem::Posix(), half->model_directory));

  std::atomic<int> starts = 0;
  TrainingRunOptions rest = Options("halves");
  rest.on_start = [&](const v1::RunConfig&, const v1::Plan& plan, int64_t first_step) {
    ++starts;
    EXPECT_EQ(first_step, 3);
    EXPECT_EQ(plan.mesh().sp(), GetParam().sp);
  };
  const auto result = Train(rest);
  ASSERT_OK(result);
  EXPECT_EQ(starts, 1);
  EXPECT_EQ(result->first_step, 3);
  EXPECT_EQ(result->steps, 6);
  EXPECT_EQ(result->losses.train.size(), 6u);
  ExpectSameRun("whole", "halves");
}

// The same from the checkpoint cut for another number of ranks.
TEST_P(TrainingResumeTest, FromACheckpointWrittenAnew) {
  ASSERT_OK(Train(Options("whole")));
  ASSERT_OK(Train(Options("halves"), Wish(3, {.stop = true, .save = true})));
  const std::string checkpoints = Run("halves") + "/checkpoints";
  const auto reader =
      CheckpointReader::Open(FileSystem::Posix(), checkpoints + "/step-000000000003");
  ASSERT_OK(reader);
  ASSERT_OK(ReshardCheckpoint(FileSystem::Posix(), *reader, checkpoints, {.files = 3}));
  const auto rest = Train(Options("halves"));
  ASSERT_OK(rest);
  EXPECT_EQ(rest->first_step, 3);
  ExpectSameRun("whole", "halves");
}

// The directory as a killed process would have left it, in the middle of writing a line and a
// checkpoint.
TEST_P(TrainingResumeTest, AfterACrash) {
  config_.mutable_train()->set_checkpoint_every(2);
  TrainingRunOptions options = Options("whole");
  options.on_logged = [&](const v1::StepMetrics& metrics) {
    if (metrics.step() != 6) return;  // not yet written
    // What is written behind the training is written when the process is killed; another test kills
    // it before.
    AwaitWhole("whole", 4);
    std::filesystem::create_directories(directory_ / "killed");
    std::filesystem::copy(Run("whole"), Run("killed"), std::filesystem::copy_options::recursive);
  };
  ASSERT_OK(Train(options));
  EXPECT_EQ(Metrics("killed").size(), 5u);
  EXPECT_FALSE(std::filesystem::exists(Run("killed") + "/model"));
  WriteText(Run("killed") + "/metrics.jsonl",
            ReadText(Run("killed") + "/metrics.jsonl") + "{\"step\":6,\"lo");
  WriteText(Run("killed") + "/checkpoints/step-000000000006.tmp/rank-00000.h5", "half a file");
  const auto rest = Train(Options("killed"));
  ASSERT_OK(rest);
  EXPECT_EQ(rest->first_step, 4);
  EXPECT_EQ(Checkpoints("killed"), (std::vector<int64_t>{2, 4, 6}));
  ExpectSameRun("whole", "killed");
}

// One byte of what the last rank reads: all ranks go on from the same older checkpoint.
TEST_P(TrainingResumeTest, FromTheNewestWholeCheckpointWhereOneIsDamaged) {
  config_.mutable_train()->set_checkpoint_every(2);
  ASSERT_OK(Train(Options("whole")));
  const std::string checkpoints = Run("damaged") + "/checkpoints";
  const auto damage = [&](const std::string& name) {
    const std::string path =
        fmt::format("{}/{}/rank-{:05}.h5", checkpoints, name, GetParam().size() - 1);
    std::string bytes = ReadText(path);
    bytes.back() ^= 1;
    WriteText(path, bytes);
    return path + ": piece ";
  };
  std::filesystem::create_directories(directory_ / "damaged");
  std::filesystem::copy(Run("whole"), Run("damaged"), std::filesystem::copy_options::recursive);
  std::filesystem::remove_all(Run("damaged") + "/model");
  std::filesystem::remove_all(checkpoints + "/step-000000000006");
  const std::string piece = damage("step-000000000004");

  TrainingRunOptions strict = Options("damaged");
  strict.strict = true;
  for (const auto& result : TrainAll(strict)) {
    EXPECT_THAT(Failure(result), AllOf(HasSubstr(piece), HasSubstr("without --strict")));
  }
  EXPECT_EQ(Checkpoints("damaged"), (std::vector<int64_t>{2, 4}));

  TrainingRunOptions options = Options("damaged");
  std::vector<int64_t> reported;
  options.on_save = [&](const v1::CheckpointReport& report) { reported.push_back(report.step()); };
  testing::internal::CaptureStderr();
  const auto rest = Train(options);
  const std::string log = testing::internal::GetCapturedStderr();
  ASSERT_OK(rest);
  EXPECT_EQ(rest->first_step, 2);
  EXPECT_THAT(log, AllOf(HasSubstr("DAMAGED CHECKPOINT: "), HasSubstr(piece),
                         HasSubstr("step-000000000004.damaged")));
  EXPECT_THAT(reported, ElementsAre(2, 4, 6));
  EXPECT_THAT(Checkpoints("damaged"), ElementsAre(2, 4, 6));
  ExpectSameRun("whole", "damaged");

  std::filesystem::remove_all(Run("damaged") + "/model");
  for (const char* name : {"step-000000000002", "step-000000000004.2", "step-000000000006"}) {
    damage(name);
  }
  for (const auto& result : TrainAll(Options("damaged"))) {
    EXPECT_THAT(Failure(result), AllOf(HasSubstr("holds no whole checkpoint"),
                                       HasSubstr("step-000000000002.damaged"),
                                       HasSubstr("step-000000000006.damaged")));
  }
}

TEST_P(TrainingResumeTest, KeepsTheNewestCheckpoints) {
  config_.mutable_train()->set_checkpoint_every(1);
  config_.mutable_train()->set_checkpoint_keep(2);
  std::vector<int64_t> saved;
  TrainingRunOptions options = Options("run");
  options.on_save = [&](const v1::CheckpointReport& report) {
    EXPECT_EQ(report.error(), "");
    EXPECT_TRUE(std::filesystem::exists(report.path()));
    saved.push_back(report.step());
  };
  ASSERT_OK(Train(options));
  EXPECT_THAT(saved, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(Checkpoints("run"), ElementsAre(5, 6));
}

TEST_P(TrainingResumeTest, KeepsThoseOfEveryKthStepAndTheBest) {
  v1::TrainConfig& train = *config_.mutable_train();
  train.set_checkpoint_every(1);
  train.set_checkpoint_keep(1);
  train.set_checkpoint_keep_every(4);
  train.set_checkpoint_keep_best(true);
  train.set_evaluate_every(1);
  // Away from the best at some time, whatever the data: the last steps undo what was learnt.
  train.mutable_optimizer()->set_learning_rate(3);
  ASSERT_OK(Train(Options("run")));
  int64_t best = 0;
  double least = 1e9;
  for (const nlohmann::json& line : Metrics("run")) {
    if (line["evaluation_loss"] > least) continue;
    least = line["evaluation_loss"];
    best = line["step"];
  }
  std::set<int64_t> kept = {best, 4, 6};
  ASSERT_EQ(kept.size(), 3u) << "the best, of step " << best << ", stays anyway";
  EXPECT_THAT(Checkpoints("run"), testing::ElementsAreArray(kept));
}

TEST_P(TrainingResumeTest, SavesByTheClock) {
  config_.mutable_train()->set_checkpoint_keep(9);
  config_.mutable_train()->set_checkpoint_minutes(1000);
  ASSERT_OK(Train(Options("slow")));
  EXPECT_THAT(Checkpoints("slow"), ElementsAre(6));
  config_.mutable_train()->set_checkpoint_minutes(1e-4);  // 6 ms
  TrainingRunOptions options = Options("run");
  options.on_step = [](const v1::StepMetrics& metrics) {
    if (metrics.step() % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(7));
  };
  ASSERT_OK(Train(options));
  EXPECT_THAT(Checkpoints("run"), testing::IsSupersetOf({2, 4, 6}));
}

TEST_P(TrainingResumeTest, AWishToSaveIsFulfilledAndTheRunGoesOn) {
  const auto result = Train(Options("run"), Wish(2, {.save = true}));
  ASSERT_OK(result);
  EXPECT_FALSE(result->stopped);
  EXPECT_THAT(Checkpoints("run"), ElementsAre(2, 6));
}

TEST_P(TrainingResumeTest, AStopWithoutACheckpointLeavesNone) {
  const auto result = Train(Options("run"), Wish(2, {.stop = true}));
  ASSERT_OK(result);
  EXPECT_TRUE(result->stopped);
  EXPECT_EQ(result->steps, 2);
  EXPECT_THAT(Checkpoints("run"), ElementsAre());
  EXPECT_THAT(Failure(Train(Options("run"))),
              AllOf(HasSubstr(Run("run") + " holds a run that has ended"),
                    HasSubstr("no checkpoint"), HasSubstr("--overwrite")));
}

class ManyRanksResumeTest : public TrainingResumeTest {};
INSTANTIATE_TEST_SUITE_P(Meshes, ManyRanksResumeTest, testing::Values(Mesh{2, 2, 1}, Mesh{1, 1, 2}),
                         NameOfMesh);

TEST_P(ManyRanksResumeTest, ARankThatCannotStartIsNamedOnce) {
  const auto failure = [&](const std::function<void(TrainingRunOptions&)>& spoil) {
    std::set<std::string> messages;
    for (const auto& result : TrainAll(Options("run"), [&](int rank, TrainingRunOptions&options) {
           if (rank == 1) spoil(options);
         })) {
      messages.insert(Failure(result));
    }
    EXPECT_EQ(messages.size(), 1u);
    return *messages.begin();
  };
  EXPECT_THAT(failure([](TrainingRunOptions& options) {
                options.written.mutable_data()->set_shards(0, "/nowhere/data");
              }),
              AllOf(HasSubstr("rank 1 on "), HasSubstr("/nowhere/data")));
  EXPECT_THAT(
      failure([](TrainingRunOptions& options) { options.written.mutable_train()->set_seed(9); }),
      HasSubstr("train.seed is 0 on the first rank and 9 here"));
  std::filesystem::create_directory(directory_ / "other");
  WriteShard(directory_ / "other/train-00000.h5", RandomDocuments(8, 60, 256, 7), TestTokenizer());
  EXPECT_THAT(failure([&](TrainingRunOptions& options) {
                options.written.mutable_data()->set_shards(0, directory_ / "other");
              }),
              HasSubstr("data.shards is "));
  EXPECT_FALSE(std::filesystem::exists(Run("run")));
}

TEST_P(TrainingResumeTest, AFirstRankThatCannotWriteEndsAll) {
  FailingFileSystem full;
  full.appends_left = 2;  // the configuration, and the metrics of one step
  EXPECT_THAT(Failure(Train(Options("run"),
                            [&](int rank, TrainingRunOptions& options) {
                              if (rank == 0) options.fs = &full;
                            })),
              HasSubstr("disk full"));
}

// Fails to create the last rank's file in the checkpoint of one step.
class FailingSave : public FailingFileSystem {
 public:
  explicit FailingSave(const std::string& file) : file_(file) {}
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    if (path.ends_with(file_)) return absl::ResourceExhaustedError("cannot create: disk full");
    return FailingFileSystem::Create(path);
  }

 private:
  const std::string file_;
};

// One host that reads other bytes than what lies on the disk.
class BadMemory : public FailingFileSystem {
 public:
  absl::Status ReadRange(const std::string& path, int64_t offset, std::span<char> out) override {
    const absl::Status read = FailingFileSystem::ReadRange(path, offset, out);
    if (path.ends_with(".h5") && !out.empty()) out.back() ^= 1;
    return read;
  }
};

TEST_P(ManyRanksResumeTest, OneRanksDamageDoesNotTakeTheCheckpointFromAll) {
  config_.mutable_train()->set_checkpoint_every(2);
  config_.mutable_train()->set_steps(4);
  ASSERT_OK(Train(Options("run")));
  std::filesystem::remove_all(Run("run") + "/model");
  config_.mutable_train()->set_steps(6);
  BadMemory bad;
  const auto results = TrainAll(Options("run"), [&](int rank, TrainingRunOptions& options) {
    if (rank == GetParam().size() - 1) options.fs = &bad;
  });
  for (const auto& result : results) {
    EXPECT_THAT(Failure(result), AllOf(HasSubstr("piece "), HasSubstr("finds no fault")));
  }
  EXPECT_THAT(Checkpoints("run"), ElementsAre(2, 4));
  ASSERT_OK(Train(Options("run")));
}

TEST_P(TrainingResumeTest, AFailedSaveIsReportedAndTrainingGoesOn) {
  FailingSave fs(fmt::format("step-000000000004.tmp/rank-{:05}.h5", GetParam().size() - 1));
  config_.mutable_train()->set_checkpoint_every(2);
  const auto fail_last = [&](int rank, TrainingRunOptions& options) {
    if (rank == GetParam().size() - 1) options.fs = &fs;
  };
  TrainingRunOptions options = Options("run");
  std::vector<std::string> errors;
  options.on_save = [&](const v1::CheckpointReport& report) { errors.push_back(report.error()); };
  ASSERT_OK(Train(options, fail_last));
  EXPECT_THAT(errors, ElementsAre("", HasSubstr("disk full"), ""));
  EXPECT_THAT(Checkpoints("run"), ElementsAre(2, 6));
  // But who stops a run relies on its checkpoint.
  const auto stop = Wish(4, {.stop = true, .save = true});
  EXPECT_THAT(
      Failure(Train(Options("stopped"),
                    [&](int rank, TrainingRunOptions& options) {
                      fail_last(rank, options);
                      stop(rank, options);
                    })),
      AllOf(HasSubstr("stopped after step 4, which could not be saved"), HasSubstr("disk full")));
}

}  // namespace
}  // namespace mnemo
