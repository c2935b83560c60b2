#include "src/job/run_directory.h"

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

absl::StatusOr<RunDirectory> RunDirectory::Create(FileSystem& fs, const std::string& path,
                                                  std::string_view config_text, bool overwrite) {
  const RunDirectory run(path);
  if (!overwrite && !NamesIn(fs, run.model_path()).empty()) {
    return FailedPrecondition(
        "{} holds a run that has ended (it has a model/); name another --run-dir, or add "
        "--overwrite to "
        "discard that run",
        path);
  }
  MNEMO_RETURN_IF_ERROR(fs.MakeDirectories(path));
  if (fs.Exists(run.metrics_path())) LogWarning("the run that {} holds is discarded", path);
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
