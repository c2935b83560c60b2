// SIGINT and SIGTERM as a request to finish what is in hand and end cleanly.
#pragma once

#include <csignal>

namespace mnemo {

// While one lives, the first of these signals only sets a flag and says so on standard error; the
// second ends the process as usual. At most one at a time, made and destroyed on the main thread.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // The signal that came ("SIGINT"), or null.
  static const char* Received();

 private:
  struct sigaction before_interrupt_, before_terminate_;
};

}  // namespace mnemo
