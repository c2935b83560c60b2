// The coordinator: serves one job from the first rank that joins to the last that ends.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "src/job/service/job_ledger.h"

namespace mnemo {

struct CoordinatorOptions {
  std::string run_directory;  // made if need be
  JobTerms terms;
  std::string listen;                 // HOST:PORT; empty: loopback
  double linger_seconds = 1;          // after the end, for those who watch
  std::function<bool()> should_stop;  // asked often; true once asks the ranks to save and end
};

// Returns when the job has finished (OK), failed (Aborted, with the reason) or cannot be served.
// One that died before in this run directory is continued: same token, same address where that is
// possible, step and checkpoint from the files. Call it from one thread; nothing else of the
// process may use gRPC's signals or fork meanwhile.
absl::Status RunCoordinator(const CoordinatorOptions& options);

}  // namespace mnemo
