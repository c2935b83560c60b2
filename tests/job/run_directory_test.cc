#include "src/job/run_directory.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "src/core/host.h"
#include "tests/ckpt/faulty_file_system.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class RunDirectoryTest : public testing::Test {
 protected:
  absl::StatusOr<RunDirectory> Open() { return RunDirectory::Open(fs_, path_); }

  TestDirectory directory_;
  std::string path_ = directory_ / "runs/first";
  FileSystem& fs_ = FileSystem::Posix();
};

TEST_F(RunDirectoryTest, IsMadeAndHoldsTheConfiguration) {
  const auto run = Open();
  ASSERT_OK(run);
  EXPECT_FALSE(run->HasModel());
  EXPECT_FALSE(run->HasMetrics());
  ASSERT_OK(run->WriteConfig("steps: 3\n"));
  EXPECT_EQ(ReadText(path_ + "/config.textproto"), "steps: 3\n");
  EXPECT_EQ(run->model_path(), path_ + "/model");
}

TEST_F(RunDirectoryTest, ItsNameAndThoseAboveAreMadeDurable) {
  for (const char* end : {"", "/"}) {
    std::filesystem::remove_all(directory_ / "runs");
    const std::string above = ParentDirectory(directory_ / "runs");
    FaultyFileSystem log(FaultyFileSystem::Fault::kNone, 0);
    ASSERT_OK(RunDirectory::Open(log, path_ + end));
    EXPECT_THAT(log.log(),
                ::testing::ElementsAre("sync directory " + ParentDirectory(above),
                                       "mkdir " + above + "/runs", "sync directory " + above,
                                       "mkdir " + path_, "sync directory " + above + "/runs"));
    // Made by one who died before its name was durable.
    FaultyFileSystem again(FaultyFileSystem::Fault::kNone, 0);
    ASSERT_OK(RunDirectory::Open(again, path_ + end));
    EXPECT_THAT(again.log(), ::testing::ElementsAre("sync directory " + above + "/runs"));
  }
}

TEST_F(RunDirectoryTest, DiscardsTheRunAndNothingElse) {
  const auto run = Open();
  ASSERT_OK(run);
  WriteText(path_ + "/model/model.safetensors", "weights");
  WriteText(path_ + "/metrics.jsonl", "{}\n");
  WriteText(path_ + "/loss.svg", "<svg/>");
  WriteText(path_ + "/notes.txt", "mine");
  WriteText(path_ + "/checkpoints/step-000000000007/manifest.pb", "damaged");
  WriteText(path_ + "/checkpoints/step-000000000008.tmp/rank-00000.h5", "left over");
  WriteText(path_ + "/checkpoints/notes.txt", "mine too");
  EXPECT_TRUE(run->HasModel());
  EXPECT_TRUE(run->HasMetrics());
  ASSERT_OK(run->Discard());
  EXPECT_FALSE(run->HasModel());
  EXPECT_FALSE(std::filesystem::exists(path_ + "/model"));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/metrics.jsonl"));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/loss.svg"));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/checkpoints/step-000000000007"));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/checkpoints/step-000000000008.tmp"));
  EXPECT_EQ(ReadText(path_ + "/notes.txt"), "mine");
  EXPECT_EQ(ReadText(path_ + "/checkpoints/notes.txt"), "mine too");
}

TEST_F(RunDirectoryTest, ARunThatLoggedNothingHasNoMetrics) {
  const auto run = Open();
  ASSERT_OK(run);
  WriteText(path_ + "/metrics.jsonl", "");
  EXPECT_FALSE(run->HasMetrics());
}

TEST_F(RunDirectoryTest, BelongsToOneProcessAtATime) {
  {
    const auto live = Open();
    ASSERT_OK(live);
    const RunDirectory copy = *live;
    EXPECT_THAT(Failure(Open()),
                HasSubstr(fmt::format("{} is in use: process {} on {} writes into it", path_,
                                      ::getpid(), HostName())));
  }
  ASSERT_OK(Open());
}

TEST_F(RunDirectoryTest, APlaceThatCannotBeADirectoryIsNamed) {
  WriteText(directory_ / "file", "");
  path_ = directory_ / "file/run";
  EXPECT_THAT(Failure(Open()), AllOf(HasSubstr(path_), HasSubstr("cannot create directory")));
}

TEST_F(RunDirectoryTest, AFullDiskIsNamed) {
  FailingFileSystem full;
  full.appends_left = 0;
  const auto run = RunDirectory::Open(full, path_);
  ASSERT_OK(run);
  EXPECT_THAT(Failure(run->WriteConfig("steps: 3\n")), HasSubstr("disk full"));
  EXPECT_FALSE(std::filesystem::exists(path_ + "/config.textproto"));
}

}  // namespace
}  // namespace mnemo
