// metrics.jsonl: one JSON object a line, one line for each logged step. docs/metrics.md describes
// every field.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/job.pb.h"
#include "src/core/file_system.h"
#include "src/job/loss_plot.h"

namespace mnemo {

// The line, without its newline. Numbers that are not finite become null.
std::string MetricsLine(const v1::StepMetrics& metrics);

// Cuts the file back to the lines of steps up to `last_step`, and returns their losses. What is not
// a whole line, as a dying process leaves, goes too. None if there is no file.
absl::StatusOr<LossCurves> CutMetrics(FileSystem& fs, const std::string& path, int64_t last_step);

// Not thread-safe. Every line is handed to the operating system before Write returns, so that a
// run that dies leaves whole lines.
class MetricsWriter {
 public:
  // A new file.
  static absl::StatusOr<MetricsWriter> Create(FileSystem& fs, const std::string& path);
  // Goes on at the end of one, if there is one.
  static absl::StatusOr<MetricsWriter> Append(FileSystem& fs, const std::string& path);
  absl::Status Write(const v1::StepMetrics& metrics);
  absl::Status Sync() { return file_->Sync(); }
  // Syncs and closes; nothing can be written afterwards.
  absl::Status Close();

 private:
  explicit MetricsWriter(std::unique_ptr<WritableFile> file) : file_(std::move(file)) {}
  std::unique_ptr<WritableFile> file_;
};

}  // namespace mnemo
