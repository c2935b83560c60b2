// metrics.jsonl: one JSON object a line, one line for each logged step. docs/metrics.md describes
// every field.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/job.pb.h"
#include "src/core/file_system.h"

namespace mnemo {

// The line, without its newline. Numbers that are not finite become null.
std::string MetricsLine(const v1::StepMetrics& metrics);

// Not thread-safe. Every line is handed to the operating system before Write returns, so that a
// run that dies leaves whole lines.
class MetricsWriter {
 public:
  static absl::StatusOr<MetricsWriter> Create(FileSystem& fs, const std::string& path);
  absl::Status Write(const v1::StepMetrics& metrics);
  // Syncs and closes; nothing can be written afterwards.
  absl::Status Close();

 private:
  explicit MetricsWriter(std::unique_ptr<WritableFile> file) : file_(std::move(file)) {}
  std::unique_ptr<WritableFile> file_;
};

}  // namespace mnemo
