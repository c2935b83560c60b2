// metrics.jsonl: one JSON object a line, one line for each logged step. docs/metrics.md describes
// every field.
#pragma once

#include <memory>
#include <string>
#include <utility>

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
  // A line that cannot be written leaves no half one behind that matters: the next call removes it
  // first, and writes nothing as long as that fails.
  absl::Status Write(const v1::StepMetrics& metrics);
  absl::Status Sync() { return file_->Sync(); }
  // Syncs and closes; nothing can be written afterwards.
  absl::Status Close();

 private:
  MetricsWriter(FileSystem& fs, std::string path, std::unique_ptr<WritableFile> file)
      : fs_(&fs), path_(std::move(path)), file_(std::move(file)) {}
  absl::Status Repair();

  FileSystem* fs_;
  std::string path_;
  std::unique_ptr<WritableFile> file_;
  bool broken_ = false;  // a line may be there in part
};

}  // namespace mnemo
