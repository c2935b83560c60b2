// The directory that holds everything a run writes:
//   config.textproto   the effective configuration
//   metrics.jsonl      a line for each logged step (docs/metrics.md)
//   loss.svg           the loss curve
//   model/             the trained weights; its presence says that the run has ended. A run whose
//                      steps stayed non-finite has none.
//   .lock              locked by the process that writes here, as long as it lives
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "src/core/file_system.h"

namespace mnemo {

class RunDirectory {
 public:
  // Makes `path` ready for a new run and writes config.textproto. FailedPrecondition, with nothing
  // changed, if a live process has it, or if it holds a run that has logged a step or ended, unless
  // `overwrite` is set: then that run's files are removed. Other files are left alone.
  static absl::StatusOr<RunDirectory> Create(FileSystem& fs, const std::string& path,
                                             std::string_view config_text, bool overwrite);

  const std::string& path() const { return path_; }
  std::string metrics_path() const { return path_ + "/metrics.jsonl"; }
  std::string config_path() const { return path_ + "/config.textproto"; }
  std::string loss_curve_path() const { return path_ + "/loss.svg"; }
  std::string model_path() const { return path_ + "/model"; }

 private:
  explicit RunDirectory(std::string path) : path_(std::move(path)) {}
  absl::Status Lock();
  absl::Status CheckFree(FileSystem& fs) const;
  absl::Status RemoveRun(FileSystem& fs) const;

  std::string path_;
  std::shared_ptr<const void> lock_;  // released with the last copy, or by the kernel
};

}  // namespace mnemo
