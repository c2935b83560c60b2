#include "src/job/run_start.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "src/ckpt/checkpoint_writer.h"
#include "src/ckpt/manifest.h"
#include "src/core/config_text.h"
#include "tests/data/data_test_util.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;

class RunStartTest : public testing::Test {
 protected:
  RunStartTest()
      : config_(Effective(TinyRun())),
        directory_(RunDirectory::Open(fs_, scratch_ / "run").value()) {}

  void Save(int64_t step) {
    v1::CheckpointManifest about;
    *about.mutable_config() = config_;
    about.mutable_training()->set_step(step);
    about.mutable_training()->set_tokens_seen(100 * step);
    about.mutable_training()->set_data_digest(ToBytes(data_));
    const std::vector<float> value{1};
    const StatePiece piece = WholePiece(
        "parameter/x", Tensor::FromHost(std::span<const float>(value), {1}, DType::kF32));
    ASSERT_OK(SaveCheckpoint(fs_, directory_.checkpoints_path(), {&piece, 1}, about));
  }
  absl::StatusOr<RunStart> Decide(const v1::RunConfig& config,
                                  std::optional<int64_t> resume_step = std::nullopt,
                                  bool overwrite = false) {
    return DecideStart(fs_, directory_, {config, data_, overwrite, resume_step});
  }
  void WriteMetrics() { WriteText(directory_.metrics_path(), "{\"step\":1}\n"); }
  void WriteModel() { WriteText(directory_.model_path() + "/model.safetensors", "weights"); }

  FileSystem& fs_ = FileSystem::Posix();
  TestDirectory scratch_;
  v1::RunConfig config_;
  Digest data_ = DigestOf("text");
  RunDirectory directory_;
};

TEST_F(RunStartTest, AtTheNewestWholeCheckpoint) {
  const auto fresh = Decide(config_);
  ASSERT_OK(fresh);
  EXPECT_EQ(fresh->step, 0);
  EXPECT_EQ(fresh->checkpoint, "");
  Save(2);
  Save(3);
  Save(4);
  std::filesystem::resize_file(directory_.checkpoints_path() + "/step-000000000004/manifest.pb", 9);
  std::filesystem::create_directory(directory_.checkpoints_path() + "/step-000000000005.tmp");
  const auto start = Decide(config_);
  ASSERT_OK(start);
  EXPECT_EQ(start->step, 3);
  EXPECT_EQ(start->tokens_seen, 300);
  EXPECT_THAT(start->checkpoint, EndsWith("run/checkpoints/step-000000000003"));
}

TEST_F(RunStartTest, ADamagedCheckpointIsAnErrorIfStrictOrIfThereIsNoOther) {
  const auto damage = [&](const std::string& name) {
    std::filesystem::resize_file(directory_.checkpoints_path() + "/" + name + "/manifest.pb", 9);
  };
  const auto strict = [&] {
    return DecideStart(fs_, directory_, {config_, data_, false, std::nullopt, true});
  };
  Save(2);
  Save(3);
  damage("step-000000000002");
  EXPECT_EQ(strict()->step, 3);  // an older one is no matter
  damage("step-000000000003");
  WriteMetrics();
  EXPECT_THAT(Failure(Decide(config_)),
              AllOf(HasSubstr(directory_.checkpoints_path() + " holds no whole checkpoint"),
                    HasSubstr("step-000000000002/manifest.pb"),
                    HasSubstr("step-000000000003/manifest.pb"), HasSubstr("--overwrite")));
  EXPECT_THAT(Failure(Decide(config_, 0)), HasSubstr("holds no whole checkpoint"));
  Save(1);
  EXPECT_EQ(Decide(config_)->step, 1);
  EXPECT_THAT(Failure(strict()),
              AllOf(HasSubstr("step-000000000003/manifest.pb"), HasSubstr("without --strict")));
  EXPECT_EQ(Decide(config_, std::nullopt, true)->step, 0);
}

// A manifest that is gone is damage like any other: nothing begins again in its place.
TEST_F(RunStartTest, ALostManifestIsDamage) {
  const auto lose = [&](int64_t step) {
    std::filesystem::remove(
        fmt::format("{}/step-{:012}/manifest.pb", directory_.checkpoints_path(), step));
  };
  Save(2);
  Save(3);
  WriteMetrics();
  lose(3);
  EXPECT_EQ(Decide(config_)->step, 2);
  EXPECT_THAT(Failure(DecideStart(fs_, directory_, {config_, data_, false, std::nullopt, true})),
              HasSubstr("step-000000000003: its manifest.pb is missing; without --strict"));
  lose(2);
  EXPECT_THAT(Failure(Decide(config_)), HasSubstr("holds no whole checkpoint"));
  EXPECT_TRUE(directory_.HasMetrics());
}

// What cannot be read now may be whole: neither passed over nor begun again.
TEST_F(RunStartTest, WhatCannotBeReadEndsTheRun) {
  Save(2);
  Save(3);
  const std::string manifest = directory_.checkpoints_path() + "/step-000000000003/manifest.pb";
  std::filesystem::remove(manifest);
  std::filesystem::create_symlink("manifest.pb", manifest);  // of itself: ELOOP
  EXPECT_THAT(Failure(Decide(config_)), HasSubstr(manifest + ": Too many levels"));
  std::filesystem::rename(directory_.checkpoints_path(), scratch_ / "elsewhere");
  std::filesystem::create_directory_symlink(scratch_ / "unmounted", directory_.checkpoints_path());
  EXPECT_THAT(Failure(Decide(config_)), HasSubstr("cannot list " + directory_.checkpoints_path()));
}

// They have been read: a run that goes on need not name them.
TEST_F(RunStartTest, InitialWeightsNeedNotBeNamedAgain) {
  v1::RunConfig begun = config_;
  begun.mutable_train()->set_init_from("/some/model");
  std::swap(config_, begun);
  Save(2);
  EXPECT_EQ(Decide(config_)->step, 2);
  EXPECT_EQ(Decide(begun)->step, 2);
  begun.mutable_train()->set_init_from("/another/model");
  EXPECT_THAT(Failure(Decide(begun)), HasSubstr("train.init_from was \"/some/model\" there"));
}

TEST_F(RunStartTest, WhereTheCoordinatorSays) {
  ASSERT_OK(Decide(config_, 0));
  Save(2);
  Save(4);
  for (const int64_t step : {2, 4}) {
    const auto start = Decide(config_, step);
    ASSERT_OK(start);
    EXPECT_EQ(start->step, step);
  }
  for (const int64_t step : {0, 3, 5}) {
    EXPECT_THAT(Failure(Decide(config_, step)),
                AllOf(HasSubstr(fmt::format("goes on from step {}, ", step)),
                      HasSubstr("is of step 4"), HasSubstr(directory_.checkpoints_path())));
  }
}

TEST_F(RunStartTest, AnotherRunIsRefusedByItsFirstDifference) {
  Save(2);
  const auto refusal = [&](const std::string& override) {
    v1::RunConfig config = config_;
    EXPECT_OK(ApplyOverrides({&override, 1}, &config));
    return Failure(Decide(config));
  };
  EXPECT_THAT(refusal("model.layers=3"),
              AllOf(HasSubstr("step-000000000002 belongs to another run: model.layers was 2 there "
                              "and is 3 here"),
                    HasSubstr("--run-dir"), HasSubstr("--overwrite")));
  EXPECT_THAT(refusal("train.seed=5"), HasSubstr("train.seed was 0 there and is 5 here"));
  EXPECT_THAT(refusal("train.slice=4"), HasSubstr("train.slice was 8 there and is 4 here"));
  EXPECT_THAT(refusal("data.document_reset=CHUNK"), HasSubstr("data.document_reset was NONE"));
  EXPECT_THAT(refusal("execution.precision=F64"), HasSubstr("execution.precision was F32"));
  data_ = DigestOf("other text");
  EXPECT_THAT(Failure(Decide(config_)), HasSubstr("data.shards hold other text"));
}

TEST_F(RunStartTest, WhatDoesNotMakeItAnotherRunMayChange) {
  Save(2);
  for (const std::string& override :
       {std::string("train.steps=9"), std::string("train.log_every=7"),
        std::string("train.checkpoint_every=1"), std::string("train.checkpoint_minutes=2"),
        std::string("train.checkpoint_keep_every=4"), std::string("train.checkpoint_async=false"),
        std::string("execution.threads=3"), std::string("parallel.sp=2"),
        std::string("data.shards=elsewhere"), std::string("train.optimizer.learning_rate=0.5")}) {
    v1::RunConfig config = config_;
    ASSERT_OK(ApplyOverrides({&override, 1}, &config));
    const auto start = Decide(config);
    ASSERT_OK(start);
    EXPECT_EQ(start->step, 2);
  }
}

TEST_F(RunStartTest, ARunThatHasEndedSaysSo) {
  Save(6);
  // Its model is still to be written.
  EXPECT_EQ(Decide(config_)->step, 6);
  WriteModel();
  EXPECT_THAT(Failure(Decide(config_)),
              AllOf(HasSubstr("run holds a run that has ended: it has taken 6 steps of 6"),
                    HasSubstr("--steps"), HasSubstr("--overwrite")));
  config_.mutable_train()->set_steps(8);
  EXPECT_EQ(Decide(config_)->step, 6);
}

TEST_F(RunStartTest, WithoutACheckpointAModelIsNotReplaced) {
  WriteModel();
  EXPECT_THAT(Failure(Decide(config_)), HasSubstr("holds a run that has ended"));
}

TEST_F(RunStartTest, ARunCutShortBeforeItsFirstCheckpointBeginsAgain) {
  WriteMetrics();
  EXPECT_THAT(Failure(Decide(config_)), HasSubstr("holds a run of unknown configuration"));
  ASSERT_OK(directory_.WriteConfig(PrintConfigText(config_)));
  const auto start = Decide(config_);
  ASSERT_OK(start);
  EXPECT_EQ(start->step, 0);
  config_.mutable_train()->set_seed(1);
  EXPECT_THAT(Failure(Decide(config_)), AllOf(HasSubstr("cut short before its first checkpoint"),
                                              HasSubstr("train.seed was 0 there and is 1 here")));
}

TEST_F(RunStartTest, OverwriteDiscards) {
  Save(2);
  WriteMetrics();
  WriteModel();
  config_.mutable_model()->set_layers(3);
  const auto start = Decide(config_, std::nullopt, true);
  ASSERT_OK(start);
  EXPECT_EQ(start->step, 0);
  EXPECT_EQ(start->checkpoint, "");
  EXPECT_FALSE(directory_.HasModel());
  EXPECT_FALSE(std::filesystem::exists(directory_.checkpoints_path() + "/step-000000000002"));
}

}  // namespace
}  // namespace mnemo
