#include "tests/data/data_test_util.h"

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "src/core/random.h"
#include "src/core/status.h"
#include "src/data/shard_writer.h"
#include "src/data/tokenizer.h"

namespace mnemo {
namespace {

FileSystem& Real() { return FileSystem::Posix(); }

class CountingFile : public WritableFile {
 public:
  CountingFile(std::unique_ptr<WritableFile> file, std::string path, std::atomic<int64_t>& left)
      : file_(std::move(file)), path_(std::move(path)), left_(left) {}
  absl::Status Append(std::string_view bytes) override {
    if (left_ <= 0) return absl::UnavailableError(path_ + ": disk full");
    --left_;
    return file_->Append(bytes);
  }
  absl::Status Sync() override { return file_->Sync(); }
  absl::Status Close() override { return file_->Close(); }

 private:
  std::unique_ptr<WritableFile> file_;
  std::string path_;
  std::atomic<int64_t>& left_;
};

}  // namespace

FileSizeLimit::FileSizeLimit(uint64_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
  MNEMO_CHECK(::getrlimit(RLIMIT_FSIZE, &before_) == 0);
  struct rlimit limit = before_;
  limit.rlim_cur = bytes;
  MNEMO_CHECK(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

FileSizeLimit::~FileSizeLimit() {
  ::setrlimit(RLIMIT_FSIZE, &before_);
  std::signal(SIGXFSZ, handler_);
}

TestDirectory::TestDirectory() {
  std::string pattern = testing::TempDir() + "/mnemo_data_XXXXXX";
  MNEMO_CHECK(::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TestDirectory::~TestDirectory() { std::filesystem::remove_all(path_); }

void WriteText(const std::string& path, std::string_view text) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::string ReadText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::string Snapshot(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    names.push_back(entry.path().string());
  }
  std::sort(names.begin(), names.end());
  std::string all;
  for (const std::string& name : names) {
    all += std::filesystem::path(name).filename().string() + "\n" + ReadText(name) + "\n";
  }
  return all;
}

Documents RandomDocuments(int count, int longest, int32_t below, uint64_t seed) {
  const RandomStream random(seed, 0, "test/documents");
  uint64_t at = 0;
  Documents documents(static_cast<size_t>(count));
  for (auto& document : documents) {
    document.resize(1 + random.Below(at++, static_cast<uint64_t>(longest)));
    for (int32_t& token : document) {
      token = static_cast<int32_t>(random.Below(at++, static_cast<uint64_t>(below)));
    }
  }
  return documents;
}

ShardTokenizer TestTokenizer(int64_t vocabulary) {
  ShardTokenizer tokenizer = MakeBytesTokenizer()->description();
  tokenizer.vocabulary = vocabulary;
  return tokenizer;
}

void WriteShard(const std::string& path, const Documents& documents,
                const ShardTokenizer& tokenizer) {
  auto writer = ShardWriter::Create(Real(), path, tokenizer, "");
  ASSERT_OK(writer);
  for (const auto& document : documents) {
    ASSERT_OK((*writer)->Append(document));
    ASSERT_OK((*writer)->EndDocument());
  }
  ASSERT_OK((*writer)->Finish());
}

std::shared_ptr<const TokenSet> OpenSet(const std::vector<std::string>& paths) {
  auto set = TokenSet::Open(paths, ShardRole::kTraining);
  EXPECT_OK(set);
  return set.ok() ? std::shared_ptr<const TokenSet>(*std::move(set)) : nullptr;
}

absl::StatusOr<std::string> FailingFileSystem::ReadFile(const std::string& path) {
  return Real().ReadFile(path);
}
absl::Status FailingFileSystem::ReadRange(const std::string& path, int64_t offset,
                                          std::span<char> out) {
  return Real().ReadRange(path, offset, out);
}
absl::StatusOr<std::unique_ptr<WritableFile>> FailingFileSystem::Create(const std::string& path) {
  MNEMO_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, Real().Create(path));
  return std::make_unique<CountingFile>(std::move(file), path, appends_left);
}
absl::StatusOr<std::unique_ptr<WritableFile>> FailingFileSystem::OpenAppend(
    const std::string& path) {
  return Real().OpenAppend(path);
}
absl::StatusOr<int64_t> FailingFileSystem::FileSize(const std::string& path) {
  return Real().FileSize(path);
}
bool FailingFileSystem::Exists(const std::string& path) { return Real().Exists(path); }
absl::StatusOr<std::vector<std::string>> FailingFileSystem::List(const std::string& directory) {
  return Real().List(directory);
}
absl::Status FailingFileSystem::MakeDirectories(const std::string& path) {
  return Real().MakeDirectories(path);
}
absl::Status FailingFileSystem::Rename(const std::string& from, const std::string& to) {
  if (renames_fail) return absl::UnavailableError("cannot rename " + from);
  return Real().Rename(from, to);
}
absl::Status FailingFileSystem::Remove(const std::string& path) { return Real().Remove(path); }
absl::Status FailingFileSystem::RemoveDirectory(const std::string& path) {
  return Real().RemoveDirectory(path);
}
absl::Status FailingFileSystem::SyncDirectory(const std::string& path) {
  return Real().SyncDirectory(path);
}

}  // namespace mnemo
