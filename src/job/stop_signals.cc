#include "src/job/stop_signals.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string_view>

#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGUSR2};

std::atomic<int> received{0};
std::atomic<bool> quiet{false}, patient{false}, save{false};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may not lock");

constexpr std::string_view kAnswer =
    "\nmnemo: stopping after this step; once more aborts and loses what is not saved\n";
constexpr std::string_view kPatientAnswer = "\nmnemo: stopping after this step\n";

// Nothing here but what a signal handler may call.
void Handle(int signal) {
  const int error = errno;
  const std::string_view answer = patient ? kPatientAnswer : kAnswer;
  if (received.exchange(signal) == 0) {
    if (quiet) {
      // Another process says it.
    } else if (::write(STDERR_FILENO, answer.data(), answer.size()) < 0) {
      // There is nobody to tell.
    }
  } else if (!patient) {
    ::signal(signal, SIG_DFL);
    ::raise(signal);  // ends the process when this handler returns
  }
  errno = error;
}

void HandleSave(int) { save = true; }

}  // namespace

StopSignals::StopSignals(const StopSignalsOptions& options) {
  received.store(0);
  quiet = options.quiet;
  patient = options.patient;
  struct sigaction action = {};
  action.sa_handler = Handle;
  action.sa_flags = SA_RESTART;  // system calls go on as if nothing happened
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < before_.size(); ++i) {
    MNEMO_CHECK(sigaction(kSignals[i], &action, &before_[i]) == 0);
  }
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < before_.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
}

SaveSignal::SaveSignal() {
  save = false;
  struct sigaction action = {};
  action.sa_handler = HandleSave;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  MNEMO_CHECK(sigaction(SIGUSR1, &action, &before_) == 0);
}

SaveSignal::~SaveSignal() { sigaction(SIGUSR1, &before_, nullptr); }

bool SaveSignal::Take() { return save.exchange(false); }

const char* StopSignals::Received() {
  switch (received.load()) {
    case 0:
      return nullptr;
    case SIGINT:
      return "SIGINT";
    case SIGUSR2:
      return "SIGUSR2";
    default:
      return "SIGTERM";
  }
}

}  // namespace mnemo
