// A process as one rank of an MPI job, for the life of the process.
//
// Threads. After start-up one thread, the progress thread, makes every MPI call; all others hand it
// their wishes through a queue. So MPI needs MPI_THREAD_SERIALIZED only: start-up and end are
// called by the owner's thread, and never at the same time as anything else (the progress thread
// starts after the one and has been joined before the other).
//
// The progress thread polls while something is under way, with pauses that grow to a fraction of a
// millisecond, so that more ranks than cores do not keep each other from working; with nothing
// under way it looks every few milliseconds whether another rank has failed.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "src/parallel/transport.h"

namespace mnemo {

struct MpiOptions {
  DelayOptions delays;
  // Messages are cut into parts of at most this size, since MPI counts in int. For tests; otherwise
  // leave it.
  int64_t part_bytes = int64_t{1} << 30;
};

class MpiSession {
 public:
  // Once per process, before other threads are started. Works under mpirun and alone (one rank).
  // Errors carry MPI's own message.
  static absl::StatusOr<std::unique_ptr<MpiSession>> Start(const MpiOptions& options = {});

  // Without Finish, a destroyed session does not communicate and leaves MPI unfinished: mpirun then
  // takes the end of the process for a failure and ends the job.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  int rank() const;
  int size() const;
  Transport& transport();
  // Of ranks that failed by themselves at the same time all may have aborted the job before they
  // heard of each other. The lowest of the others that did, as far as is known; size() if none.
  int FirstAlarm() const;

  // Ends MPI in peace, on all ranks: when all have come, within the timeout, it is finalised. On an
  // error (a rank has failed, or does not come) it is not, and Kill or the end of the process is
  // what remains. The transport is of no use afterwards.
  absl::Status Finish(Timeout timeout = kLivenessTimeout);

  // Ends the whole job at once: MPI_Abort on all ranks with an exit code that is not 0. A rank
  // whose transport was aborted should first give the others a moment to say what they know.
  [[noreturn]] void Kill(int exit_code);

 private:
  class Endpoint;
  explicit MpiSession(std::unique_ptr<Endpoint> endpoint);
  std::unique_ptr<Endpoint> endpoint_;
};

}  // namespace mnemo
