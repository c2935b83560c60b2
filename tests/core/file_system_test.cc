#include "src/core/file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "src/core/status.h"

namespace mnemo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class FileSystemTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "mnemo_file_system_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  FileSystem& fs_ = FileSystem::Posix();
  std::string directory_;
};

TEST_F(FileSystemTest, WritesAppendsAndReads) {
  std::string large(3000000, 'x');
  large[1234567] = '\0';
  {
    auto file = fs_.Create(Path("a"));
    ASSERT_TRUE(file.ok());
    EXPECT_TRUE((*file)->Append("hello ").ok());
    EXPECT_TRUE((*file)->Append(large).ok());
    EXPECT_TRUE((*file)->Sync().ok());
    EXPECT_TRUE((*file)->Close().ok());
    EXPECT_EQ((*file)->Append("late").code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ((*file)->Sync().code(), absl::StatusCode::kFailedPrecondition);
  }
  auto more = fs_.OpenAppend(Path("a"));
  ASSERT_TRUE(more.ok());
  EXPECT_TRUE((*more)->Append("!").ok());
  EXPECT_TRUE((*more)->Close().ok());
  EXPECT_EQ(fs_.ReadFile(Path("a")).value(), "hello " + large + "!");
  EXPECT_EQ(fs_.FileSize(Path("a")).value(), 3000007);
  ASSERT_TRUE(fs_.Create(Path("a")).ok());  // creating again empties it
  EXPECT_EQ(fs_.ReadFile(Path("a")).value(), "");
}

// A file of more than is written back at a time, in parts of odd sizes.
TEST_F(FileSystemTest, LargeFilesHoldWhatWasAppended) {
  std::string large(size_t{40} << 20, '\0');
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * 2654435761u >> 13);
  for (const bool append : {false, true}) {
    auto file = append ? fs_.OpenAppend(Path("a")) : fs_.Create(Path("a"));
    ASSERT_TRUE(file.ok());
    for (size_t at = 0; at < large.size(); at += 3000001) {
      ASSERT_TRUE((*file)->Append(std::string_view(large).substr(at, 3000001)).ok());
    }
    ASSERT_TRUE((*file)->Sync().ok());
    ASSERT_TRUE((*file)->Close().ok());
  }
  EXPECT_TRUE(fs_.ReadFile(Path("a")).value() == large + large);
}

TEST_F(FileSystemTest, ReadsPartsOfAnOpenFile) {
  ASSERT_TRUE(WriteFileAtomically(fs_, Path("f"), "0123456789").ok());
  auto file = fs_.OpenToRead(Path("f"));
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(fs_.Remove(Path("f")).ok());  // it stays open
  std::string part(4, '?');
  for (const auto& [offset, text] : {std::pair(3, "3456"), {6, "6789"}, {0, "0123"}}) {
    EXPECT_TRUE((*file)->Read(offset, part).ok());
    EXPECT_EQ(part, text);
  }
  const absl::Status past = (*file)->Read(7, part);
  EXPECT_TRUE(absl::IsDataLoss(past));
  EXPECT_THAT(std::string(past.message()),
              HasSubstr(Path("f") + ": ends 1 bytes before it should"));
  EXPECT_TRUE(absl::IsNotFound(fs_.OpenToRead(Path("f")).status()));
}

TEST_F(FileSystemTest, ReadsRanges) {
  ASSERT_TRUE(WriteFileAtomically(fs_, Path("f"), "0123456789").ok());
  std::string part(4, '?');
  EXPECT_TRUE(fs_.ReadRange(Path("f"), 3, part).ok());
  EXPECT_EQ(part, "3456");
  EXPECT_TRUE(fs_.ReadRange(Path("f"), 10, std::span<char>()).ok());
  absl::Status past_the_end = fs_.ReadRange(Path("f"), 7, part);
  EXPECT_EQ(past_the_end.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(past_the_end.message(), HasSubstr(Path("f")));
  EXPECT_EQ(fs_.ReadRange(Path("none"), 0, part).code(), absl::StatusCode::kNotFound);
}

TEST_F(FileSystemTest, RemovesEmptyDirectoriesOnly) {
  ASSERT_TRUE(fs_.MakeDirectories(Path("d/e")).ok());
  EXPECT_THAT(fs_.RemoveDirectory(Path("d")).message(), HasSubstr("not empty"));
  EXPECT_TRUE(fs_.RemoveDirectory(Path("d/e")).ok());
  EXPECT_TRUE(fs_.RemoveDirectory(Path("d")).ok());
  EXPECT_FALSE(fs_.Exists(Path("d")));
}

TEST_F(FileSystemTest, ReadsFilesThatHideTheirSize) {
  auto text = fs_.ReadFile("/proc/self/status");
  ASSERT_TRUE(text.ok());
  EXPECT_THAT(*text, HasSubstr("Name:"));
}

TEST_F(FileSystemTest, DirectoriesAndNames) {
  EXPECT_TRUE(fs_.MakeDirectories(Path("x/y/z")).ok());
  EXPECT_TRUE(fs_.MakeDirectories(Path("x/y/z")).ok());
  EXPECT_TRUE(WriteFileAtomically(fs_, Path("x/b"), "1").ok());
  EXPECT_TRUE(WriteFileAtomically(fs_, Path("x/a"), "2").ok());
  EXPECT_THAT(fs_.List(Path("x")).value(), ElementsAre("a", "b", "y"));
  EXPECT_TRUE(fs_.Exists(Path("x/a")));
  EXPECT_TRUE(fs_.Rename(Path("x/a"), Path("x/c")).ok());
  EXPECT_FALSE(fs_.Exists(Path("x/a")));
  EXPECT_TRUE(fs_.Remove(Path("x/c")).ok());
  EXPECT_TRUE(fs_.SyncDirectory(Path("x")).ok());
  EXPECT_THAT(fs_.List(Path("x")).value(), ElementsAre("b", "y"));
}

TEST_F(FileSystemTest, TheDirectoryAbove) {
  for (const auto& [path, parent] : {std::pair("a/b", "a"), {"a", "."}, {"/a", "/"}, {"/", "/"}}) {
    EXPECT_EQ(ParentDirectory(path), parent) << path;
  }
}

TEST_F(FileSystemTest, ErrorsNamePathAndCause) {
  std::string missing = Path("no/such");
  for (const absl::Status& status :
       {fs_.ReadFile(missing).status(), fs_.Create(missing).status(),
        fs_.OpenAppend(missing).status(), fs_.FileSize(missing).status(),
        fs_.List(missing).status(), fs_.Remove(missing), fs_.SyncDirectory(missing),
        fs_.Rename(missing, Path("to"))}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
    EXPECT_THAT(status.message(), HasSubstr(missing));
    EXPECT_THAT(status.message(), HasSubstr("No such file or directory"));
  }
  EXPECT_THAT(fs_.ReadFile(directory_).status().message(), HasSubstr("Is a directory"));
  ASSERT_TRUE(fs_.Create(Path("file")).ok());
  EXPECT_FALSE(fs_.MakeDirectories(Path("file/under")).ok());
}

TEST_F(FileSystemTest, FullDeviceIsAnError) {
  auto file = fs_.OpenAppend("/dev/full");
  if (!file.ok()) GTEST_SKIP() << "no /dev/full here";
  absl::Status status = (*file)->Append("x");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("/dev/full"));
}

TEST_F(FileSystemTest, AtomicWriteReplacesAndCleansUp) {
  ASSERT_TRUE(WriteFileAtomically(fs_, Path("f"), "one").ok());
  ASSERT_TRUE(WriteFileAtomically(fs_, Path("f"), "two").ok());
  EXPECT_EQ(fs_.ReadFile(Path("f")).value(), "two");
  EXPECT_THAT(fs_.List(directory_).value(), ElementsAre("f"));
}

// Passes everything on, but fails one kind of call.
class FailingFileSystem final : public FileSystem {
 public:
  explicit FailingFileSystem(std::string what) : what_(std::move(what)) {}

  absl::StatusOr<std::string> ReadFile(const std::string& path) override {
    return fs_.ReadFile(path);
  }
  absl::Status ReadRange(const std::string& path, int64_t offset, std::span<char> out) override {
    return fs_.ReadRange(path, offset, out);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    std::unique_ptr<WritableFile> file;
    MNEMO_ASSIGN_OR_RETURN(file, fs_.Create(path));
    return std::make_unique<File>(this, std::move(file));
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string& path) override {
    return fs_.OpenAppend(path);
  }
  absl::StatusOr<int64_t> FileSize(const std::string& path) override { return fs_.FileSize(path); }
  bool Exists(const std::string& path) override { return fs_.Exists(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    return fs_.List(path);
  }
  absl::Status MakeDirectories(const std::string& path) override {
    return fs_.MakeDirectories(path);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    MNEMO_RETURN_IF_ERROR(Fail("rename"));
    return fs_.Rename(from, to);
  }
  absl::Status Remove(const std::string& path) override { return fs_.Remove(path); }
  absl::Status RemoveDirectory(const std::string& path) override {
    return fs_.RemoveDirectory(path);
  }
  absl::Status SyncDirectory(const std::string& path) override {
    MNEMO_RETURN_IF_ERROR(Fail("sync directory"));
    return fs_.SyncDirectory(path);
  }

 private:
  class File final : public WritableFile {
   public:
    File(FailingFileSystem* fs, std::unique_ptr<WritableFile> file)
        : fs_(fs), file_(std::move(file)) {}
    absl::Status Append(std::string_view bytes) override {
      MNEMO_RETURN_IF_ERROR(fs_->Fail("append"));
      return file_->Append(bytes);
    }
    absl::Status Sync() override {
      MNEMO_RETURN_IF_ERROR(fs_->Fail("sync"));
      return file_->Sync();
    }
    absl::Status Close() override {
      MNEMO_RETURN_IF_ERROR(fs_->Fail("close"));
      return file_->Close();
    }

   private:
    FailingFileSystem* fs_;
    std::unique_ptr<WritableFile> file_;
  };

  absl::Status Fail(const char* call) const {
    return what_ == call ? DataLoss("injected: {}", call) : absl::OkStatus();
  }

  FileSystem& fs_ = FileSystem::Posix();
  std::string what_;
};

TEST_F(FileSystemTest, AtomicWriteKeepsTheOldFileOnAnyFailure) {
  ASSERT_TRUE(WriteFileAtomically(fs_, Path("f"), "old").ok());
  for (const char* call : {"append", "sync", "close", "rename"}) {
    FailingFileSystem failing(call);
    absl::Status status = WriteFileAtomically(failing, Path("f"), "new");
    EXPECT_THAT(status.message(), HasSubstr(call));
    EXPECT_EQ(fs_.ReadFile(Path("f")).value(), "old");
    EXPECT_THAT(fs_.List(directory_).value(), ElementsAre("f"));
  }
  FailingFileSystem failing("sync directory");
  EXPECT_FALSE(WriteFileAtomically(failing, Path("f"), "new").ok());
}

}  // namespace
}  // namespace mnemo
