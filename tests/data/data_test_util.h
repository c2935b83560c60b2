// What the tests of src/data share.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "src/core/file_system.h"
#include "src/data/sentencepiece/load_plugin.h"
#include "src/data/shard_format.h"
#include "src/data/token_set.h"

namespace mnemo {

// A directory of its own, removed with everything in it.
class TestDirectory {
 public:
  TestDirectory();
  ~TestDirectory();
  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

void WriteText(const std::string& path, std::string_view text);  // makes directories
std::string ReadText(const std::string& path);
// Name and contents of every file in a directory, one after the other.
std::string Snapshot(const std::string& directory);

#define ASSERT_OK(expression)                           \
  do {                                                  \
    const absl::Status status_ = GetStatus(expression); \
    ASSERT_TRUE(status_.ok()) << status_.message();     \
  } while (0)
#define EXPECT_OK(expression)                           \
  do {                                                  \
    const absl::Status status_ = GetStatus(expression); \
    EXPECT_TRUE(status_.ok()) << status_.message();     \
  } while (0)

inline absl::Status GetStatus(const absl::Status& status) { return status; }
template <typename T>
absl::Status GetStatus(const absl::StatusOr<T>& value) {
  return value.status();
}
// The message of what must fail; "" (and a failed test) if it did not.
template <typename T>
std::string Failure(const T& value) {
  const absl::Status status = GetStatus(value);
  EXPECT_FALSE(status.ok());
  return std::string(status.message());
}

// First line of tests that need SentencePiece. Only builds with sanitizers cannot load it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MNEMO_NEED_SENTENCEPIECE() \
  if (!internal::SentencePieceApi().ok()) GTEST_SKIP() << internal::SentencePieceApi().status()
#else
#define MNEMO_NEED_SENTENCEPIECE() ASSERT_OK(internal::SentencePieceApi())
#endif

using Documents = std::vector<std::vector<int32_t>>;  // without separators

// Documents of random lengths in [1, longest] with random tokens below `below`.
Documents RandomDocuments(int count, int longest, int32_t below, uint64_t seed);
// The bytes tokenizer, or one of another vocabulary that only shards know.
ShardTokenizer TestTokenizer(int64_t vocabulary = 264);
void WriteShard(const std::string& path, const Documents& documents,
                const ShardTokenizer& tokenizer);
std::shared_ptr<const TokenSet> OpenSet(const std::vector<std::string>& paths);

// While it lives, no file of this process grows beyond `bytes`: what is written farther on fails
// like on a full disk, with "File too large". For the writes of HDF5, which pass FileSystem by.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(uint64_t bytes);
  ~FileSizeLimit();

 private:
  struct rlimit before_;
  void (*handler_)(int);
};

// A file system that fails on demand and otherwise passes everything on.
class FailingFileSystem : public FileSystem {
 public:
  std::atomic<int64_t> appends_left = INT64_MAX;  // then "disk full"
  bool renames_fail = false;

  absl::StatusOr<std::string> ReadFile(const std::string& path) override;
  absl::Status ReadRange(const std::string& path, int64_t offset, std::span<char> out) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string& path) override;
  absl::StatusOr<int64_t> FileSize(const std::string& path) override;
  bool Exists(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override;
  absl::Status MakeDirectories(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Remove(const std::string& path) override;
  absl::Status RemoveDirectory(const std::string& path) override;
  absl::Status SyncDirectory(const std::string& path) override;
};

}  // namespace mnemo
