// What the project needs of a file system, behind an interface so that tests can lose bytes, fill
// up and fail at any call. All paths are native; errors name the path and the cause.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace mnemo {

// A file being written from its start. Not thread-safe. The destructor closes without syncing; a
// file is whole and durable only after Sync() and Close() have returned OK.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual absl::Status Append(std::string_view bytes) = 0;
  virtual absl::Status Sync() = 0;
  virtual absl::Status Close() = 0;
};

// A file being read. Thread-safe. Where parts are read one after the other from one object, what
// follows is read ahead.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  // Fills `out` from byte `offset` on. DataLoss if the file ends before that.
  virtual absl::Status Read(int64_t offset, std::span<char> out) = 0;
};

// Thread-safe.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // The process-wide POSIX file system.
  static FileSystem& Posix();

  virtual absl::StatusOr<std::string> ReadFile(const std::string& path) = 0;
  // Fills `out` from byte `offset` on. DataLoss if the file ends before that.
  virtual absl::Status ReadRange(const std::string& path, int64_t offset, std::span<char> out) = 0;
  // For many parts of one file. As it is here, each goes through ReadRange.
  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> OpenToRead(const std::string& path);
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) = 0;
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string& path) = 0;
  virtual absl::StatusOr<int64_t> FileSize(const std::string& path) = 0;
  // False only where there is certainly nothing: a link that leads nowhere, and what cannot be
  // looked at, is there.
  virtual bool Exists(const std::string& path) = 0;
  virtual absl::StatusOr<std::vector<std::string>> List(
      const std::string& directory) = 0;                              // names, sorted
  virtual absl::Status MakeDirectories(const std::string& path) = 0;  // existing ones are fine
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  virtual absl::Status Remove(const std::string& path) = 0;           // a file
  virtual absl::Status RemoveDirectory(const std::string& path) = 0;  // an empty one
  virtual absl::Status SyncDirectory(const std::string& path) = 0;
};

// Writes to `path + ".tmp"`, syncs, renames, syncs the directory: afterwards `path` holds either
// what it held before or all of `bytes`. The temporary file is removed on failure.
absl::Status WriteFileAtomically(FileSystem& fs, const std::string& path, std::string_view bytes);

// Makes what is missing of `path`, from the top, and syncs the directory above each one before it
// makes the next: what is then written and synced in `path` does not get lost with the name of a
// directory above. Where `path` is there, its name is synced all the same: whoever made it may
// have died before that. A directory above that this user may not open is left to its owner.
absl::Status MakeDurableDirectories(FileSystem& fs, const std::string& path);

// The directory that holds `path`: "." for a plain name.
std::string ParentDirectory(const std::string& path);

}  // namespace mnemo
