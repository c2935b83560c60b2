// A file system that passes every call on, but for one that fails, or for all from one on.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "src/core/file_system.h"
#include "src/core/status.h"

namespace mnemo {

// Counts the calls that change something. The one that fails changes nothing, except that an
// Append still writes the first half of its bytes.
class FaultyFileSystem final : public FileSystem {
 public:
  enum class Fault {
    kNone,
    kOnce,  // a full disk, an error of the device: what is done about it gets through
    kDead,  // this call and all that follow: the process is gone
  };
  FaultyFileSystem(Fault fault, int at) : fault_(fault), at_(at) {}

  int calls() const { return static_cast<int>(log_.size()); }
  const std::vector<std::string>& log() const { return log_; }  // "append PATH", ..
  int64_t bytes_read() const { return bytes_read_; }            // of parts of files

  absl::StatusOr<std::string> ReadFile(const std::string& path) override {
    return fs_.ReadFile(path);
  }
  absl::Status ReadRange(const std::string& path, int64_t offset, std::span<char> out) override {
    bytes_read_ += static_cast<int64_t>(out.size());
    return fs_.ReadRange(path, offset, out);
  }
  absl::StatusOr<int64_t> FileSize(const std::string& path) override { return fs_.FileSize(path); }
  bool Exists(const std::string& path) override { return fs_.Exists(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& path) override {
    return fs_.List(path);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    MNEMO_RETURN_IF_ERROR(Call("create", path));
    return Wrap(fs_.Create(path), path);
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenAppend(const std::string& path) override {
    MNEMO_RETURN_IF_ERROR(Call("open", path));
    return Wrap(fs_.OpenAppend(path), path);
  }
  absl::Status MakeDirectories(const std::string& path) override {
    MNEMO_RETURN_IF_ERROR(Call("mkdir", path));
    return fs_.MakeDirectories(path);
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    MNEMO_RETURN_IF_ERROR(Call("rename", from));
    return fs_.Rename(from, to);
  }
  absl::Status Remove(const std::string& path) override {
    MNEMO_RETURN_IF_ERROR(Call("remove", path));
    return fs_.Remove(path);
  }
  absl::Status RemoveDirectory(const std::string& path) override {
    MNEMO_RETURN_IF_ERROR(Call("rmdir", path));
    return fs_.RemoveDirectory(path);
  }
  absl::Status SyncDirectory(const std::string& path) override {
    MNEMO_RETURN_IF_ERROR(Call("sync directory", path));
    return fs_.SyncDirectory(path);
  }

 private:
  class File final : public WritableFile {
   public:
    File(FaultyFileSystem& fs, std::unique_ptr<WritableFile> file, std::string path)
        : fs_(fs), file_(std::move(file)), path_(std::move(path)) {}
    absl::Status Append(std::string_view bytes) override {
      const absl::Status status = fs_.Call("append", path_);
      if (status.ok()) return file_->Append(bytes);
      if (fs_.just_failed_) (void)file_->Append(bytes.substr(0, bytes.size() / 2));
      return status;
    }
    absl::Status Sync() override {
      MNEMO_RETURN_IF_ERROR(fs_.Call("sync", path_));
      return file_->Sync();
    }
    absl::Status Close() override {
      MNEMO_RETURN_IF_ERROR(fs_.Call("close", path_));
      return file_->Close();
    }

   private:
    FaultyFileSystem& fs_;
    std::unique_ptr<WritableFile> file_;
    std::string path_;
  };

  absl::Status Call(const char* what, const std::string& path) {
    const int call = calls();
    log_.push_back(std::string(what) + " " + path);
    just_failed_ = fault_ != Fault::kNone && call == at_;
    const bool dead = fault_ == Fault::kDead && call >= at_;
    if (!just_failed_ && !dead) return absl::OkStatus();
    return absl::ResourceExhaustedError(fmt::format("injected: cannot {} {}", what, path));
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> Wrap(
      absl::StatusOr<std::unique_ptr<WritableFile>> file, const std::string& path) {
    if (!file.ok()) return file.status();
    return std::make_unique<File>(*this, *std::move(file), path);
  }

  FileSystem& fs_ = FileSystem::Posix();
  Fault fault_;
  int at_;
  bool just_failed_ = false;
  std::vector<std::string> log_;
  std::atomic<int64_t> bytes_read_ = 0;
};

}  // namespace mnemo
