#include "src/job/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "src/ckpt/checkpoint_directory.h"
#include "src/core/host.h"
#include "src/core/log.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

// Names in a directory; none if there is no such directory.
std::vector<std::string> NamesIn(FileSystem& fs, const std::string& directory) {
  absl::StatusOr<std::vector<std::string>> names = fs.List(directory);
  return names.ok() ? *std::move(names) : std::vector<std::string>();
}

// For those who find it locked; a full disk is no reason not to train.
void SignLock(int descriptor) {
  const std::string who = fmt::format("process {} on {}\n", ::getpid(), HostName());
  if (::ftruncate(descriptor, 0) != 0 || ::write(descriptor, who.data(), who.size()) < 0) {
    LogDebug("cannot write into a run's .lock: {}", std::strerror(errno));
  }
}

std::string HolderOf(int descriptor) {
  char text[512];
  const ssize_t size = ::pread(descriptor, text, sizeof(text), 0);
  const std::string who(text, std::max<ssize_t>(0, size));
  const bool whole = who.starts_with("process ") && who.ends_with('\n');
  return whole ? who.substr(0, who.size() - 1) : "another process";
}

}  // namespace

// A file of its own, not the directory, which network file systems do not lock.
absl::Status RunDirectory::Lock() {
  const std::string file = path_ + "/.lock";
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor < 0) {
    return absl::UnavailableError(fmt::format("cannot create {}: {}", file, std::strerror(errno)));
  }
  lock_ = std::shared_ptr<const void>(nullptr, [descriptor](const void*) { ::close(descriptor); });
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) {
    SignLock(descriptor);
    return absl::OkStatus();
  }
  if (errno == EWOULDBLOCK) {
    return FailedPrecondition(
        "{} is in use: {} writes into it; wait for it or end it, or name another directory", path_,
        HolderOf(descriptor));
  }
  LogWarning("cannot lock {}: {}; nothing may train into {} beside this", file,
             std::strerror(errno), path_);
  return absl::OkStatus();
}

absl::StatusOr<RunDirectory> RunDirectory::Open(FileSystem& fs, const std::string& path) {
  RunDirectory run(fs, path);
  MNEMO_RETURN_IF_ERROR(MakeDurableDirectories(fs, path));
  MNEMO_RETURN_IF_ERROR(run.Lock());
  return run;
}

bool RunDirectory::HasModel() const { return !NamesIn(*fs_, model_path()).empty(); }

bool RunDirectory::HasMetrics() const {
  return fs_->Exists(metrics_path()) && fs_->FileSize(metrics_path()).value_or(1) > 0;
}

absl::Status RunDirectory::WriteConfig(std::string_view config_text) const {
  return WriteFileAtomically(*fs_, config_path(), config_text);
}

absl::Status RunDirectory::RemoveModel() const {
  for (const std::string& name : NamesIn(*fs_, model_path())) {
    MNEMO_RETURN_IF_ERROR(fs_->Remove(model_path() + "/" + name));
  }
  return fs_->Exists(model_path()) ? fs_->RemoveDirectory(model_path()) : absl::OkStatus();
}

absl::Status RunDirectory::RemoveRecord() const {
  for (const std::string& file : {loss_curve_path(), metrics_path()}) {
    if (fs_->Exists(file)) MNEMO_RETURN_IF_ERROR(fs_->Remove(file));
  }
  return absl::OkStatus();
}

absl::Status RunDirectory::Discard() const {
  MNEMO_RETURN_IF_ERROR(RemoveModel());
  MNEMO_RETURN_IF_ERROR(RemoveRecord());
  MNEMO_ASSIGN_OR_RETURN(const auto checkpoints, ListCheckpoints(*fs_, checkpoints_path()));
  for (const CheckpointEntry& checkpoint : checkpoints) {
    MNEMO_RETURN_IF_ERROR(RemoveCheckpoint(*fs_, checkpoint.path));
  }
  return absl::OkStatus();
}

}  // namespace mnemo
