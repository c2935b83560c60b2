// Signals as requests to a job that is under way.
#pragma once

#include <array>
#include <csignal>

namespace mnemo {

struct StopSignalsOptions {
  bool quiet = false;    // another process answers
  bool patient = false;  // only the first counts
};

// SIGINT, SIGTERM and SIGUSR2 (which mpirun passes on as it comes, unlike the others) as a request
// to finish what is in hand and end cleanly. While one lives, the first of these signals only sets
// a flag and says so on standard error; the second ends the process as usual. At most one at a
// time, made and destroyed on the main thread.
class StopSignals {
 public:
  explicit StopSignals(const StopSignalsOptions& options = {});
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The signal that came ("SIGINT"), or null.
  static const char* Received();

 private:
  std::array<struct sigaction, 3> before_;
};

// SIGUSR1 as a request to save. As above.
class SaveSignal {
 public:
  SaveSignal();
  ~SaveSignal();
  SaveSignal(const SaveSignal&) = delete;
  SaveSignal& operator=(const SaveSignal&) = delete;

  // Whether it has come since the last call.
  static bool Take();

 private:
  struct sigaction before_;
};

}  // namespace mnemo
