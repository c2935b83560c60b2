#include "src/job/service/service_files.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "tests/ckpt/scratch_directory.h"

namespace mnemo {
namespace {

using testing::HasSubstr;

class ServiceFilesTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(run_); }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(run_ + "/" + name) << text;
  }

  FileSystem& fs_ = FileSystem::Posix();
  const ScratchDirectory scratch_;
  const std::string run_ = scratch_ / "run";
};

TEST_F(ServiceFilesTest, TheTokenIsPrivateAndStays) {
  EXPECT_EQ(ReadToken(run_).status().code(), absl::StatusCode::kNotFound);
  const auto token = ReadOrMakeToken(run_);
  ASSERT_TRUE(token.ok()) << token.status();
  EXPECT_EQ(token->size(), 64);
  struct stat status;
  ASSERT_EQ(::stat((run_ + "/token").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600);
  EXPECT_EQ(*ReadToken(run_), *token);
  EXPECT_EQ(*ReadOrMakeToken(run_), *token);
  const std::string other = scratch_ / "other";
  std::filesystem::create_directories(other);
  EXPECT_NE(*ReadOrMakeToken(other), *token);
  ::chmod((run_ + "/token").c_str(), 0640);
  EXPECT_THAT(std::string(ReadOrMakeToken(run_).status().message()), HasSubstr("other users"));
}

TEST_F(ServiceFilesTest, TheAddressComesBack) {
  EXPECT_EQ(ReadCoordinatorFile(fs_, run_).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(WriteCoordinatorFile(fs_, run_, {"127.0.0.1:99", "a7", 12, 34}).ok());
  const auto file = ReadCoordinatorFile(fs_, run_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->address, "127.0.0.1:99");
  EXPECT_EQ(file->host, "a7");
  EXPECT_EQ(file->process, 12);
  EXPECT_EQ(file->started_unix_millis, 34);
  for (const char* bad : {"", "{", "[]", "{\"address\": 3}"}) {
    Write("coordinator.json", bad);
    EXPECT_EQ(ReadCoordinatorFile(fs_, run_).status().code(), absl::StatusCode::kDataLoss) << bad;
  }
}

TEST_F(ServiceFilesTest, OneCoordinatorARun) {
  auto first = LockForCoordinator(fs_, run_);
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(WriteCoordinatorFile(fs_, run_, {"127.0.0.1:99", "a7", 12, 34}).ok());
  EXPECT_THAT(std::string(LockForCoordinator(fs_, run_).status().message()),
              HasSubstr("at 127.0.0.1:99 (process 12 on a7)"));
  first->reset();
  EXPECT_TRUE(LockForCoordinator(fs_, run_).ok());
}

TEST_F(ServiceFilesTest, HistoryIsTheLastWholeLine) {
  EXPECT_EQ(ReadJobHistory(fs_, run_).last.step(), 0);
  Write("metrics.jsonl",
        "{\"step\":1,\"loss\":5.5}\n{\"step\":20,\"loss\":2.5,\"tokens\":64}\n{\"step\":30,\"lo");
  EXPECT_EQ(ReadJobHistory(fs_, run_).last.step(), 20);
  EXPECT_EQ(ReadJobHistory(fs_, run_).last.loss(), 2.5);
  EXPECT_EQ(ReadJobHistory(fs_, run_).last.tokens(), 64);
  Write("metrics.jsonl", "{\"step\":1,\"loss\":5.5}\nnonsense\n");
  EXPECT_EQ(ReadJobHistory(fs_, run_).last.step(), 1);
  Write("metrics.jsonl", "nonsense");
  EXPECT_EQ(ReadJobHistory(fs_, run_).last.step(), 0);
  ASSERT_TRUE(WriteCoordinatorFile(fs_, run_, {"127.0.0.1:99", "a7", 12, 34}).ok());
  EXPECT_EQ(ReadJobHistory(fs_, run_).started_unix_millis, 34);
}

// A model that lies beside no dead coordinator's file is that of a run that ended in peace.
TEST_F(ServiceFilesTest, HistoryTellsOfAModelThatADeadCoordinatorsRunHasWritten) {
  ASSERT_TRUE(WriteCoordinatorFile(fs_, run_, {"127.0.0.1:99", "a7", 12, 34}).ok());
  ASSERT_TRUE(fs_.MakeDirectories(run_ + "/model").ok());
  EXPECT_FALSE(ReadJobHistory(fs_, run_).model_written);
  Write("model/model.safetensors", "weights");
  EXPECT_TRUE(ReadJobHistory(fs_, run_).model_written);
  ASSERT_TRUE(fs_.Remove(CoordinatorFilePath(run_)).ok());
  EXPECT_FALSE(ReadJobHistory(fs_, run_).model_written);
}

}  // namespace
}  // namespace mnemo
