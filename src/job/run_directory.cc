#include "src/job/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "src/core/log.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

// Names in a directory; none if there is no such directory.
std::vector<std::string> NamesIn(FileSystem& fs, const std::string& directory) {
  absl::StatusOr<std::vector<std::string>> names = fs.List(directory);
  return names.ok() ? *std::move(names) : std::vector<std::string>();
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
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  if (errno == EWOULDBLOCK) {
    return FailedPrecondition(
        "{} is in use: another process trains into it; wait for it, or name another --run-dir",
        path_);
  }
  LogWarning("cannot lock {}: {}; nothing may train into {} beside this", file,
             std::strerror(errno), path_);
  return absl::OkStatus();
}

absl::Status RunDirectory::CheckFree(FileSystem& fs) const {
  const bool ended = !NamesIn(fs, model_path()).empty();
  const bool begun = fs.Exists(metrics_path()) && fs.FileSize(metrics_path()).value_or(1) > 0;
  if (!ended && !begun) return absl::OkStatus();
  return FailedPrecondition(
      "{} holds a run that {}; name another --run-dir, or add --overwrite to discard that run",
      path_,
      ended ? "has ended (it has a model/)" : "was cut short (it has a metrics.jsonl, no model/)");
}

absl::StatusOr<RunDirectory> RunDirectory::Create(FileSystem& fs, const std::string& path,
                                                  std::string_view config_text, bool overwrite) {
  RunDirectory run(path);
  MNEMO_RETURN_IF_ERROR(fs.MakeDirectories(path));
  MNEMO_RETURN_IF_ERROR(run.Lock());
  if (!overwrite) MNEMO_RETURN_IF_ERROR(run.CheckFree(fs));
  MNEMO_RETURN_IF_ERROR(run.RemoveRun(fs));
  MNEMO_RETURN_IF_ERROR(WriteFileAtomically(fs, run.config_path(), config_text));
  return run;
}

absl::Status RunDirectory::RemoveRun(FileSystem& fs) const {
  for (const std::string& name : NamesIn(fs, model_path())) {
    MNEMO_RETURN_IF_ERROR(fs.Remove(model_path() + "/" + name));
  }
  if (fs.Exists(model_path())) MNEMO_RETURN_IF_ERROR(fs.RemoveDirectory(model_path()));
  for (const std::string& file : {loss_curve_path(), metrics_path()}) {
    if (fs.Exists(file)) MNEMO_RETURN_IF_ERROR(fs.Remove(file));
  }
  return absl::OkStatus();
}

}  // namespace mnemo
