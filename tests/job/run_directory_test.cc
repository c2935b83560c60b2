#include "src/job/run_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class RunDirectoryTest : public testing::Test {
 protected:
  absl::StatusOr<RunDirectory> Create(bool overwrite = false) {
    return RunDirectory::Create(fs_, path_, "steps: 3\n", overwrite);
  }
  void Finish() { WriteText(path_ + "/model/model.safetensors", "weights"); }

  TestDirectory directory_;
  std::string path_ = directory_ / "runs/first";
  FileSystem& fs_ = FileSystem::Posix();
};

TEST_F(RunDirectoryTest, IsMadeAndHoldsTheConfiguration) {
  const auto run = Create();
  ASSERT_OK(run);
  EXPECT_EQ(ReadText(path_ + "/config.textproto"), "steps: 3\n");
  EXPECT_EQ(run->model_path(), path_ + "/model");
}

TEST_F(RunDirectoryTest, AFinishedRunIsRefusedAndLeftAlone) {
  ASSERT_OK(Create());
  Finish();
  WriteText(path_ + "/config.textproto", "old");
  EXPECT_THAT(Failure(Create()), AllOf(HasSubstr(path_ + " holds a run that has ended"),
                                       HasSubstr("--overwrite"), HasSubstr("--run-dir")));
  EXPECT_EQ(ReadText(path_ + "/config.textproto"), "old");
  EXPECT_EQ(ReadText(path_ + "/model/model.safetensors"), "weights");
}

TEST_F(RunDirectoryTest, OverwriteDiscardsTheRunAndNothingElse) {
  ASSERT_OK(Create());
  Finish();
  WriteText(path_ + "/metrics.jsonl", "{}\n");
  WriteText(path_ + "/loss.svg", "<svg/>");
  WriteText(path_ + "/notes.txt", "mine");
  ASSERT_OK(Create(true));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/model"));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/metrics.jsonl"));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/loss.svg"));
  EXPECT_EQ(ReadText(path_ + "/notes.txt"), "mine");
}

TEST_F(RunDirectoryTest, ARunCutShortIsReplacedOnlyWhenAsked) {
  ASSERT_OK(Create());
  WriteText(path_ + "/metrics.jsonl", "{}\n");
  EXPECT_THAT(Failure(Create()), AllOf(HasSubstr(path_ + " holds a run that was cut short"),
                                       HasSubstr("--overwrite")));
  EXPECT_EQ(ReadText(path_ + "/metrics.jsonl"), "{}\n");
  ASSERT_OK(Create(true));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/metrics.jsonl"));
}

TEST_F(RunDirectoryTest, ARunThatLoggedNothingIsNoLoss) {
  ASSERT_OK(Create());
  WriteText(path_ + "/metrics.jsonl", "");
  ASSERT_OK(Create());
}

TEST_F(RunDirectoryTest, ALiveRunIsNeverReplaced) {
  {
    const auto live = Create();
    ASSERT_OK(live);
    WriteText(path_ + "/metrics.jsonl", "{}\n");
    EXPECT_THAT(Failure(Create(true)), HasSubstr(path_ + " is in use"));
    EXPECT_EQ(ReadText(path_ + "/metrics.jsonl"), "{}\n");
  }
  ASSERT_OK(Create(true));
}

TEST_F(RunDirectoryTest, APlaceThatCannotBeADirectoryIsNamed) {
  WriteText(directory_ / "file", "");
  path_ = directory_ / "file/run";
  EXPECT_THAT(Failure(Create()), AllOf(HasSubstr(path_), HasSubstr("cannot create directory")));
}

TEST_F(RunDirectoryTest, AFullDiskIsNamed) {
  FailingFileSystem full;
  full.appends_left = 0;
  EXPECT_THAT(Failure(RunDirectory::Create(full, path_, "steps: 3\n", false)),
              HasSubstr("disk full"));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/config.textproto"));
}

}  // namespace
}  // namespace mnemo
