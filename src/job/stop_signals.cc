#include "src/job/stop_signals.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string_view>

#include "src/core/status.h"

namespace mnemo {
namespace {

std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may not lock");

constexpr std::string_view kAnswer =
    "\nmnemo: stopping after this step; once more aborts and loses what is not saved\n";

// Nothing here but what a signal handler may call.
void Handle(int signal) {
  const int error = errno;
  if (received.exchange(signal) == 0) {
    if (::write(STDERR_FILENO, kAnswer.data(), kAnswer.size()) < 0) {
      // There is nobody to tell.
    }
  } else {
    ::signal(signal, SIG_DFL);
    ::raise(signal);  // ends the process when this handler returns
  }
  errno = error;
}

}  // namespace

StopSignals::StopSignals() {
  received.store(0);
  struct sigaction action = {};
  action.sa_handler = Handle;
  action.sa_flags = SA_RESTART;  // system calls go on as if nothing happened
  sigemptyset(&action.sa_mask);
  MNEMO_CHECK(sigaction(SIGINT, &action, &before_interrupt_) == 0);
  MNEMO_CHECK(sigaction(SIGTERM, &action, &before_terminate_) == 0);
}

StopSignals::~StopSignals() {
  sigaction(SIGINT, &before_interrupt_, nullptr);
  sigaction(SIGTERM, &before_terminate_, nullptr);
}

const char* StopSignals::Received() {
  switch (received.load()) {
    case 0:
      return nullptr;
    case SIGINT:
      return "SIGINT";
    default:
      return "SIGTERM";
  }
}

}  // namespace mnemo
