// A user's line to a job: what `mnemo status`, `mnemo save` and `mnemo stop` ask.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/job.pb.h"

namespace mnemo {

// Thread-safe. Every call but Watch and SaveCheckpoint answers within ten seconds. Unavailable: no
// coordinator answers.
class JobClient {
 public:
  // Of the run in `run_directory`, whose token is taken along if it may be read. NotFound if no
  // coordinator serves it.
  static absl::StatusOr<JobClient> Open(const std::string& run_directory);
  JobClient(const std::string& address, const std::string& token);
  JobClient(JobClient&&) noexcept;
  ~JobClient();

  absl::StatusOr<v1::JobStatus> GetStatus() const;
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers() const;
  absl::StatusOr<v1::GetPlanResponse> GetPlan() const;
  absl::StatusOr<v1::StopResponse> Stop(bool without_checkpoint) const;
  // Waits for the checkpoint to be committed.
  absl::StatusOr<v1::SaveCheckpointResponse> SaveCheckpoint() const;
  // Calls `take` for the status now and for every `every`-th logged step, until it returns false or
  // the job has ended.
  absl::Status Watch(int every, const std::function<bool(const v1::JobUpdate&)>& take) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace mnemo
