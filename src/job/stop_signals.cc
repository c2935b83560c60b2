#include "src/job/stop_signals.h"

#include <atomic>

#include "src/core/status.h"

namespace mnemo {
namespace {

std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may not lock");

void Handle(int signal) { received.store(signal); }

}  // namespace

StopSignals::StopSignals() {
  received.store(0);
  struct sigaction action = {};
  action.sa_handler = Handle;
  // The second signal finds the default action again. System calls go on as if nothing happened.
  action.sa_flags = SA_RESETHAND | SA_RESTART;
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
