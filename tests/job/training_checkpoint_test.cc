// A run that was saved and goes on is the run that was never stopped.
#include "src/job/training_checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/checkpoint_reader.h"
#include "src/core/status.h"
#include "src/model/tensor_split.h"
#include "src/parallel/thread_transport.h"
#include "tests/data/data_test_util.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

v1::RunConfig Config() {
  v1::RunConfig config = TinyRun(v1::MAG);
  config.mutable_train()->set_micro_batches(2);
  config.mutable_train()->set_accumulation(2);
  return Effective(config);
}

struct Outcome {
  std::vector<double> losses;
  std::vector<double> parameters;  // of the whole model; empty on all but the first rank of tp
  std::string saved;               // the checkpoint's directory
};

// Trains to step `until` on every rank of the mesh, from a checkpoint unless `from` is empty; saves
// into `save` at the end unless that is empty.
absl::Status TrainRank(const v1::RunConfig& config, const Mesh& mesh, Transport& transport,
                       int64_t until, const std::string& from, const std::string& save,
                       Outcome& outcome) {
  MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, mesh));
  MNEMO_ASSIGN_OR_RETURN(const StepShare share, ShareOfRank(*ranks, config.train()));
  RandomSource source(config, share);
  MNEMO_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(config, source, *ranks));
  if (!from.empty()) {
    MNEMO_RETURN_IF_ERROR(RestoreTraining(FileSystem::Posix(), from, *trainer));
  }
  while (trainer->step() < until) {
    v1::StepMetrics metrics;
    MNEMO_RETURN_IF_ERROR(trainer->Step(metrics));
    outcome.losses.push_back(metrics.loss());
  }
  const ParameterSet whole = GatherParameters(trainer->spec(), trainer->parameters());
  if (whole.size() > 0) outcome.parameters = whole.flat().ToDoubles();
  if (save.empty()) return absl::OkStatus();
  v1::CheckpointManifest about;
  about.set_writer("test");
  *about.mutable_config() = config;
  MNEMO_ASSIGN_OR_RETURN(outcome.saved, SaveTraining(FileSystem::Posix(), save, about, *trainer));
  return absl::OkStatus();
}

absl::StatusOr<Outcome> Train(const v1::RunConfig& config, const Mesh& mesh, int64_t until,
                              const std::string& from = "", const std::string& save = "") {
  std::vector<Outcome> outcomes(mesh.size());
  MNEMO_RETURN_IF_ERROR(RunOnThreads(mesh.size(), {}, [&](Transport& transport) {
    return TrainRank(config, mesh, transport, until, from, save, outcomes[transport.rank()]);
  }));
  for (const Outcome& outcome : outcomes) {
    if (!outcome.parameters.empty()) {
      EXPECT_EQ(outcome.parameters, outcomes[0].parameters);
    }
    EXPECT_EQ(outcome.losses, outcomes[0].losses);
    EXPECT_EQ(outcome.saved, outcomes[0].saved);
  }
  return outcomes[0];
}

class TrainingCheckpointTest : public testing::Test {
 protected:
  TestDirectory directory_;
};

TEST_F(TrainingCheckpointTest, GoesOnBitwiseOnTheSameMesh) {
  for (int zero : {0, 1}) {
    v1::RunConfig config = Config();
    config.mutable_parallel()->set_zero(zero);
    for (const Mesh& mesh :
         {Mesh{1, 1, 1}, Mesh{1, 3, 1}, Mesh{2, 2, 1}, Mesh{4, 1, 1}, Mesh{2, 1, 2}}) {
      SCOPED_TRACE(ToString(mesh));
      const auto whole = Train(config, mesh, 5);
      ASSERT_TRUE(whole.ok()) << whole.status();
      const auto half = Train(config, mesh, 2, "", directory_ / "checkpoints");
      ASSERT_TRUE(half.ok()) << half.status();
      const auto rest = Train(config, mesh, 5, half->saved);
      ASSERT_TRUE(rest.ok()) << rest.status();
      EXPECT_EQ(rest->parameters, whole->parameters);
      EXPECT_EQ(rest->losses, std::vector<double>(whole->losses.begin() + 2, whole->losses.end()));
    }
  }
}

// Parameters, gradients and moments are f32 then, as in the checkpoint; bf16 copies are made again.
TEST_F(TrainingCheckpointTest, GoesOnBitwiseInMixedPrecision) {
  v1::RunConfig config = Config();
  config.mutable_execution()->set_precision(v1::BF16);
  for (const Mesh& mesh : {Mesh{1, 1, 1}, Mesh{1, 3, 1}, Mesh{2, 1, 2}}) {
    SCOPED_TRACE(ToString(mesh));
    const auto whole = Train(config, mesh, 5);
    ASSERT_TRUE(whole.ok()) << whole.status();
    const auto half = Train(config, mesh, 2, "", directory_ / "checkpoints");
    ASSERT_TRUE(half.ok()) << half.status();
    const auto rest = Train(config, mesh, 5, half->saved);
    ASSERT_TRUE(rest.ok()) << rest.status();
    EXPECT_EQ(rest->parameters, whole->parameters);
    EXPECT_EQ(rest->losses, std::vector<double>(whole->losses.begin() + 2, whole->losses.end()));
  }
}

TEST_F(TrainingCheckpointTest, GoesOnUnderAnotherMesh) {
  v1::RunConfig config = Config();
  config.mutable_execution()->set_precision(v1::F64);
  const auto whole = Train(config, {}, 5);
  ASSERT_TRUE(whole.ok()) << whole.status();
  const auto half_way = [&](const Mesh& mesh) {
    return Train(config, mesh, 2, "", directory_ / "checkpoints").value().saved;
  };
  const auto go_on = [&](const std::string& from, const Mesh& mesh) {
    SCOPED_TRACE(ToString(mesh));
    for (int zero : {0, 1}) {
      config.mutable_parallel()->set_zero(zero);
      const auto rest = Train(config, mesh, 5, from);
      ASSERT_TRUE(rest.ok()) << rest.status();
      for (size_t i = 0; i < rest->losses.size(); ++i) {
        EXPECT_NEAR(rest->losses[i], whole->losses[i + 2], 1e-9);
      }
      ASSERT_EQ(rest->parameters.size(), whole->parameters.size());
      for (size_t i = 0; i < whole->parameters.size(); ++i) {
        ASSERT_NEAR(rest->parameters[i], whole->parameters[i], 1e-7) << i;
      }
    }
  };
  const std::string uncut = half_way({1, 3, 1});
  for (const Mesh& mesh : {Mesh{1, 1, 1}, Mesh{1, 2, 1}, Mesh{2, 2, 1}, Mesh{4, 1, 1}}) {
    go_on(uncut, mesh);
  }
  go_on(uncut, {1, 2, 2});
  const std::string parts = half_way({2, 1, 2});
  go_on(parts, {1, 1, 1});
  go_on(parts, {1, 1, 2});
}

// Where a rank holds columns of a matrix, its pieces are columns of the whole: the file of a split
// model is that of the whole one, cut otherwise.
TEST_F(TrainingCheckpointTest, PartsAreSavedAsPartsOfTheWhole) {
  v1::RunConfig config = Config();
  const auto whole = Train(config, {}, 0, "", directory_ / "whole");
  const auto parts = Train(config, {1, 2, 2}, 0, "", directory_ / "parts");
  ASSERT_TRUE(whole.ok() && parts.ok()) << parts.status();
  const auto a = CheckpointReader::Open(FileSystem::Posix(), whole->saved);
  const auto b = CheckpointReader::Open(FileSystem::Posix(), parts->saved);
  ASSERT_TRUE(a.ok() && b.ok()) << b.status();
  ASSERT_EQ(a->manifest().tensors_size(), b->manifest().tensors_size());
  for (const v1::CheckpointTensor& tensor : a->manifest().tensors()) {
    const auto x = a->Read(tensor.name()), y = b->Read(tensor.name());
    ASSERT_TRUE(x.ok() && y.ok()) << y.status();
    EXPECT_EQ(x->shape(), y->shape()) << tensor.name();
    EXPECT_EQ(x->ToDoubles(), y->ToDoubles()) << tensor.name();
  }
}

TEST_F(TrainingCheckpointTest, AnotherRunIsRefused) {
  const auto half = Train(Config(), {}, 1, "", directory_ / "checkpoints");
  ASSERT_TRUE(half.ok());
  const auto refusal = [&](const v1::RunConfig& config) {
    return std::string(Train(config, {1, 2, 1}, 2, half->saved).status().message());
  };
  v1::RunConfig config = Config();
  config.mutable_train()->set_seed(99);
  EXPECT_NE(refusal(config).find("train.seed = 0, not 99"), std::string::npos) << refusal(config);
  config = Config();
  config.mutable_train()->set_sequences(2);
  EXPECT_NE(refusal(config).find("read the data in another order"), std::string::npos);
  config = Config();
  config.mutable_model()->set_mlp_hidden(96);
  EXPECT_NE(refusal(config).find("of another model"), std::string::npos) << refusal(config);
  config = Config();
  config.mutable_execution()->set_precision(v1::F64);
  EXPECT_NE(refusal(config).find("execution.precision"), std::string::npos) << refusal(config);
}

// One rank's disk is full: all ranks say so, and go on; the earlier checkpoint stays.
TEST_F(TrainingCheckpointTest, AFailedSaveIsKnownToAllAndHarmsNothing) {
  const std::string checkpoints = directory_ / "checkpoints";
  ASSERT_TRUE(Train(Config(), {}, 1, "", checkpoints).ok());
  TestDirectory elsewhere;
  std::vector<absl::Status> saves(2);
  const absl::Status status = RunOnThreads(2, {}, [&](Transport& transport) -> absl::Status {
    const v1::RunConfig config = Config();
    MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, {1, 2, 1}));
    RandomSource source(config, {0, 1, ranks->rank(), 2, 2, 2});
    MNEMO_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(config, source, *ranks));
    v1::StepMetrics metrics;
    MNEMO_RETURN_IF_ERROR(trainer->Step(metrics));
    // A file stands where the directory of checkpoints should be made.
    saves[ranks->rank()] =
        SaveTraining(FileSystem::Posix(), "/dev/null/checkpoints", {}, *trainer).status();
    return trainer->Step(metrics);
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_FALSE(saves[0].ok());
  EXPECT_EQ(saves[0], saves[1]);
  const auto entries = ListCheckpoints(FileSystem::Posix(), checkpoints);
  ASSERT_TRUE(entries.ok());
  EXPECT_NE(FindNewest(*entries), nullptr);
}

// What has been written is of no use and would keep a full disk full.
TEST_F(TrainingCheckpointTest, ACommitThatFailsLeavesNothing) {
  const std::string checkpoints = directory_ / "checkpoints";
  FailingFileSystem fs;
  fs.renames_fail = true;
  std::vector<absl::Status> saves(2);
  const absl::Status status = RunOnThreads(2, {}, [&](Transport& transport) -> absl::Status {
    const v1::RunConfig config = Config();
    MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, {1, 2, 1}));
    RandomSource source(config, {0, 1, ranks->rank(), 2, 2, 2});
    MNEMO_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(config, source, *ranks));
    saves[ranks->rank()] = SaveTraining(fs, checkpoints, {}, *trainer).status();
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_FALSE(saves[0].ok());
  EXPECT_EQ(saves[0], saves[1]);
  EXPECT_TRUE(std::filesystem::is_empty(checkpoints));
}

}  // namespace
}  // namespace mnemo
