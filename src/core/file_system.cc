#include "src/core/file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "src/core/status.h"

namespace mnemo {
namespace {

// A failed call: what was tried, on which path, and errno's text.
absl::Status IoError(const char* what, const std::string& path, int error) {
  std::string message =
      fmt::format("cannot {} {}: {}", what, path, std::generic_category().message(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case EEXIST:
      return absl::AlreadyExistsError(message);
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::UnavailableError(message);
  }
}

// Repeats a call that a signal interrupted.
template <typename Call>
auto Retry(Call&& call) {
  decltype(call()) result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  return result;
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() { Close(); }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }
  // Not repeated after EINTR: Linux has released the descriptor by then.
  int Close() {
    int fd = std::exchange(fd_, -1);
    return fd < 0 ? 0 : ::close(fd);
  }

 private:
  int fd_;
};

// Fills `out` from byte `offset` on.
absl::Status ReadFully(int fd, const std::string& path, int64_t offset, std::span<char> out) {
  while (!out.empty()) {
    ssize_t got = Retry([&] { return ::pread(fd, out.data(), out.size(), offset); });
    if (got < 0) return IoError("read", path, errno);
    if (got == 0) {
      return DataLoss("{}: ends {} bytes before it should; it is truncated", path, out.size());
    }
    out = out.subspan(got);
    offset += got;
  }
  return absl::OkStatus();
}

class PosixReadableFile final : public ReadableFile {
 public:
  // Without the hint the kernel reads too little ahead: half the speed, on some disks.
  PosixReadableFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  absl::Status Read(int64_t offset, std::span<char> out) override {
    return ReadFully(fd_.get(), path_, offset, out);
  }

 private:
  std::string path_;
  FileDescriptor fd_;
};

// Where a file system has nothing better.
class FileReadByRanges final : public ReadableFile {
 public:
  FileReadByRanges(FileSystem& fs, std::string path) : fs_(fs), path_(std::move(path)) {}
  absl::Status Read(int64_t offset, std::span<char> out) override {
    return fs_.ReadRange(path_, offset, out);
  }

 private:
  FileSystem& fs_;
  std::string path_;
};

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  absl::Status Append(std::string_view bytes) override {
    if (fd_.get() < 0) return FailedPrecondition("cannot append to {}: it is closed", path_);
    while (!bytes.empty()) {
      ssize_t written = Retry([&] { return ::write(fd_.get(), bytes.data(), bytes.size()); });
      if (written < 0) return IoError("write to", path_, errno);
      bytes.remove_prefix(written);
      BeginWriteBack(written);
    }
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    if (fd_.get() < 0) return FailedPrecondition("cannot sync {}: it is closed", path_);
    if (Retry([&] { return ::fsync(fd_.get()); }) < 0) return IoError("sync", path_, errno);
    return absl::OkStatus();
  }

  absl::Status Close() override {
    if (fd_.Close() < 0 && errno != EINTR) return IoError("close", path_, errno);
    return absl::OkStatus();
  }

 private:
  // The disk begins with what is there, rather than wait for Sync() or for much of the memory to be
  // full of it. Says nothing about durability, and may fail.
  void BeginWriteBack(int64_t written) {
    constexpr int64_t kLot = int64_t{16} << 20;
    unwritten_ += written;
    if (unwritten_ < kLot) return;
    unwritten_ = 0;
    const off_t end = ::lseek(fd_.get(), 0, SEEK_CUR);
    if (end < begun_) return;
    ::sync_file_range(fd_.get(), begun_, end - begun_, SYNC_FILE_RANGE_WRITE);
    begun_ = end;
  }

  std::string path_;
  FileDescriptor fd_;
  int64_t unwritten_ = 0;
  off_t begun_ = 0;
};

class PosixFileSystem final : public FileSystem {
 public:
  absl::StatusOr<std::string> ReadFile(const std::string& path) override {
    FileDescriptor fd(Retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
    if (fd.get() < 0) return IoError("open", path, errno);
    std::string bytes;
    struct stat info;
    if (::fstat(fd.get(), &info) == 0 && info.st_size > 0) bytes.reserve(info.st_size + 1);
    size_t size = 0;
    for (;;) {  // to the end, whatever the size was when it was asked for
      bytes.resize(std::max<size_t>(bytes.capacity(), size + 4096));
      ssize_t got =
          Retry([&] { return ::read(fd.get(), bytes.data() + size, bytes.size() - size); });
      if (got < 0) return IoError("read", path, errno);
      if (got == 0) break;
      size += got;
    }
    bytes.resize(size);
    return bytes;
  }

  absl::Status ReadRange(const std::string& path, int64_t offset, std::span<char> out) override {
    FileDescriptor fd(Retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); }));
    if (fd.get() < 0) return IoError("open", path, errno);
    return ReadFully(fd.get(), path, offset, out);
  }

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenToRead(const std::string& path) override {
    int fd = Retry([&] { return ::open(path.c_str(), O_RDONLY | O_CLOEXEC); });
    if (fd < 0) return IoError("open", path, errno);
    return std::make_unique<PosixReadableFile>(path, fd);
  }

  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    return Open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, "create");
  }

  absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string& path) override {
    return Open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, "open for appending");
  }

  absl::StatusOr<int64_t> FileSize(const std::string& path) override {
    struct stat info;
    if (::stat(path.c_str(), &info) < 0) return IoError("find the size of", path, errno);
    return static_cast<int64_t>(info.st_size);
  }

  bool Exists(const std::string& path) override {
    struct stat info;
    return ::lstat(path.c_str(), &info) == 0 || (errno != ENOENT && errno != ENOTDIR);
  }

  absl::StatusOr<std::vector<std::string>> List(const std::string& directory) override {
    std::error_code error;
    std::vector<std::string> names;
    std::filesystem::directory_iterator it(directory, error), end;
    for (; !error && it != end; it.increment(error)) {
      names.push_back(it->path().filename().string());
    }
    if (error) return IoError("list", directory, error.value());
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status MakeDirectories(const std::string& path) override {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) return IoError("create directory", path, error.value());
    return absl::OkStatus();
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) == 0) return absl::OkStatus();
    return IoError("rename", fmt::format("{} to {}", from, to), errno);
  }

  absl::Status Remove(const std::string& path) override {
    if (::unlink(path.c_str()) < 0) return IoError("remove", path, errno);
    return absl::OkStatus();
  }

  absl::Status RemoveDirectory(const std::string& path) override {
    if (::rmdir(path.c_str()) < 0) return IoError("remove directory", path, errno);
    return absl::OkStatus();
  }

  absl::Status SyncDirectory(const std::string& path) override {
    FileDescriptor fd(
        Retry([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
    if (fd.get() < 0) return IoError("open directory", path, errno);
    // Some file systems cannot sync a directory and say so; there is nothing more to do then.
    if (Retry([&] { return ::fsync(fd.get()); }) < 0 && errno != EINVAL && errno != ENOTSUP) {
      return IoError("sync directory", path, errno);
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<std::unique_ptr<WritableFile>> Open(const std::string& path, int flags,
                                                     const char* what) {
    int fd = Retry([&] { return ::open(path.c_str(), flags, 0666); });
    if (fd < 0) return IoError(what, path, errno);
    return std::make_unique<PosixWritableFile>(path, fd);
  }
};

absl::Status WriteAndSync(FileSystem& fs, const std::string& path, std::string_view bytes) {
  std::unique_ptr<WritableFile> file;
  MNEMO_ASSIGN_OR_RETURN(file, fs.Create(path));
  MNEMO_RETURN_IF_ERROR(file->Append(bytes));
  MNEMO_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ReadableFile>> FileSystem::OpenToRead(const std::string& path) {
  return std::make_unique<FileReadByRanges>(*this, path);
}

FileSystem& FileSystem::Posix() {
  static PosixFileSystem* fs = new PosixFileSystem;
  return *fs;
}

absl::Status WriteFileAtomically(FileSystem& fs, const std::string& path, std::string_view bytes) {
  std::string temporary = path + ".tmp";
  absl::Status status = WriteAndSync(fs, temporary, bytes);
  if (status.ok()) status = fs.Rename(temporary, path);
  if (!status.ok()) {
    (void)fs.Remove(temporary);  // the first error is the one to report
    return status;
  }
  return fs.SyncDirectory(ParentDirectory(path));
}

absl::Status MakeDurableDirectories(FileSystem& fs, const std::string& path) {
  if (path.size() > 1 && path.ends_with('/')) {
    return MakeDurableDirectories(fs, path.substr(0, path.size() - 1));
  }
  const std::string parent = ParentDirectory(path);
  if (!fs.Exists(path)) {
    if (parent != path) MNEMO_RETURN_IF_ERROR(MakeDurableDirectories(fs, parent));
    MNEMO_RETURN_IF_ERROR(fs.MakeDirectories(path));
  }
  const absl::Status synced = fs.SyncDirectory(parent);
  return absl::IsPermissionDenied(synced) ? absl::OkStatus() : synced;
}

std::string ParentDirectory(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace mnemo
