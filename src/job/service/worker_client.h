// A rank's line to the coordinator. Joins once, then reports from a thread of its own: training
// goes on whether anyone listens or not.
//
//   MNEMO_ASSIGN_OR_RETURN(auto client, WorkerClient::Join(options));   // before communicators
//   ... client->joined(): configuration, plan, the step to resume from
//   each step:  client->At(step, "forward"); client->Push(metrics);
//               WorkerCommands asked = client->TakeCommands();
//   at the end: client->End(status);
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/job.pb.h"

namespace mnemo {

struct WorkerOptions {
  std::string run_directory;  // where the coordinator leaves its address and token
  // rank, world_size, build, device, device_bytes and plan_digest; host and process are filled in.
  v1::JoinRequest self;
  double join_seconds = 60;  // for the coordinator to answer the first time
  size_t queue = 256;        // reports kept for a coordinator that is away
};

// What the coordinator asked for since the last call.
struct WorkerCommands {
  bool save = false, stop = false, without_checkpoint = false;
};

// At, Push, TakeCommands and End belong to one thread; none but End ever waits. When the
// coordinator goes, the client looks into the run directory for the next one and joins again with
// its step and plan.
class WorkerClient {
 public:
  // Waits for the coordinator to come up. Errors are for the user: FailedPrecondition and others
  // say why the coordinator refuses this rank, Unavailable that there is none.
  static absl::StatusOr<std::unique_ptr<WorkerClient>> Join(WorkerOptions options);
  // Ends what it is sending; does not wait for the coordinator.
  ~WorkerClient();
  WorkerClient(const WorkerClient&) = delete;
  WorkerClient& operator=(const WorkerClient&) = delete;

  const v1::JoinResponse& joined() const;

  // What heartbeats say from here on: steps taken, and what the rank is doing. `operation` lives
  // for ever (a literal).
  void At(int64_t step, const char* operation);
  void Push(v1::StepMetrics metrics);
  void Push(v1::CheckpointReport checkpoint);  // from the rank that commits, or that failed
  WorkerCommands TakeCommands();
  // The last report: how it ended. Waits, at most `seconds`, for the coordinator to have all of it;
  // one that dies meanwhile may be replaced and is told again.
  // False if it does not.
  bool End(const absl::Status& status, double seconds = 5);

  int64_t dropped() const;  // reports
  int64_t waits() const;    // pushes that had to wait: stays 0
  int64_t joins() const;    // 1, and one more for each time that it came back
  bool connected() const;   // as far as it knows

 private:
  class Impl;
  explicit WorkerClient(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace mnemo
