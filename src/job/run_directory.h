// The directory that holds everything a run writes:
//   config.textproto   the effective configuration
//   metrics.jsonl      a line for each logged step (docs/metrics.md)
//   loss.svg           the loss curve
//   checkpoints/       docs/checkpoint_format.md
//   model/             the weights when the run ended. A run that goes on has none, nor has one
//                      whose steps stayed non-finite.
//   .lock              locked by the process that writes here, as long as it lives, and names it
// What a coordinator keeps beside them: src/job/service/service_files.h.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "src/core/file_system.h"

namespace mnemo {

// `fs` outlives it.
class RunDirectory {
 public:
  // Makes `path` if need be and locks it; otherwise changes nothing. FailedPrecondition if a live
  // process has it.
  static absl::StatusOr<RunDirectory> Open(FileSystem& fs, const std::string& path);

  bool HasModel() const;
  bool HasMetrics() const;  // of at least one step
  absl::Status WriteConfig(std::string_view config_text) const;
  absl::Status RemoveModel() const;
  // Removes metrics and loss curve.
  absl::Status RemoveRecord() const;
  // Removes all that a run has written but its configuration. Other files are left alone.
  absl::Status Discard() const;

  const std::string& path() const { return path_; }
  std::string metrics_path() const { return path_ + "/metrics.jsonl"; }
  std::string config_path() const { return path_ + "/config.textproto"; }
  std::string loss_curve_path() const { return path_ + "/loss.svg"; }
  std::string model_path() const { return path_ + "/model"; }
  std::string checkpoints_path() const { return path_ + "/checkpoints"; }

 private:
  RunDirectory(FileSystem& fs, std::string path) : fs_(&fs), path_(std::move(path)) {}
  absl::Status Lock();

  FileSystem* fs_;
  std::string path_;
  std::shared_ptr<const void> lock_;  // released with the last copy, or by the kernel
};

}  // namespace mnemo
