// How a coordinator hands itself over through the run directory:
//   coordinator.json   where it answers; there as long as one serves the run, or died doing so
//   token              what ranks, and users who save or stop, have to show; mode 0600
//   .coordinator.lock  locked by the coordinator as long as it lives
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "src/core/file_system.h"
#include "src/job/service/job_ledger.h"

namespace mnemo {

struct CoordinatorFile {
  std::string address;  // host:port
  std::string host;
  int64_t process = 0;
  int64_t started_unix_millis = 0;  // the job, not this coordinator
};

std::string CoordinatorFilePath(const std::string& run_directory);

absl::Status WriteCoordinatorFile(FileSystem& fs, const std::string& run_directory,
                                  const CoordinatorFile& file);
// NotFound: no coordinator serves this run.
absl::StatusOr<CoordinatorFile> ReadCoordinatorFile(FileSystem& fs,
                                                    const std::string& run_directory);

// The run's token. NotFound if there is none; FailedPrecondition if other users may read it.
absl::StatusOr<std::string> ReadToken(const std::string& run_directory);
// The token that is there, so that workers of an earlier coordinator are known again, or a new one:
// 256 bits from the kernel, in hexadecimal. Never readable by others, not for a moment.
absl::StatusOr<std::string> ReadOrMakeToken(const std::string& run_directory);

// Held as long as the result lives. FailedPrecondition if another coordinator has it.
absl::StatusOr<std::shared_ptr<const void>> LockForCoordinator(FileSystem& fs,
                                                               const std::string& run_directory);

// The last whole line of metrics.jsonl and the newest whole checkpoint; after a coordinator that
// died also when the job started, and whether there is a model. What is not there is left out.
JobHistory ReadJobHistory(FileSystem& fs, const std::string& run_directory);

}  // namespace mnemo
