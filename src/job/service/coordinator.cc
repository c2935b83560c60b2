#include "src/job/service/coordinator.h"

#include <unistd.h>

#include <chrono>
#include <thread>

#include "src/core/host.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/service/coordinator_server.h"
#include "src/job/service/service_files.h"

namespace mnemo {
namespace {

constexpr char kLoopback[] = "127.0.0.1:0";
constexpr auto kLookEvery = std::chrono::milliseconds(50);

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Where the one before listened, if it may still be free: then its workers need not look for this.
absl::StatusOr<std::unique_ptr<CoordinatorServer>> StartServer(JobLedger& ledger,
                                                               const std::string& listen,
                                                               const std::string& before,
                                                               const std::string& token) {
  if (!listen.empty()) return CoordinatorServer::Start(ledger, {listen, token});
  if (before.starts_with("127.")) {
    auto server = CoordinatorServer::Start(ledger, {before, token});
    if (server.ok()) return server;
  }
  return CoordinatorServer::Start(ledger, {kLoopback, token});
}

void Serve(JobLedger& ledger, const CoordinatorOptions& options) {
  for (bool asked = false; !ledger.Ended(); std::this_thread::sleep_for(kLookEvery)) {
    ledger.Tick();
    if (!asked && options.should_stop && options.should_stop()) {
      asked = true;
      LogWarning("asking the ranks to save and end after step {}",
                 ledger.RequestStop(false).last_step());
    }
  }
}

}  // namespace

absl::Status RunCoordinator(const CoordinatorOptions& options) {
  FileSystem& fs = FileSystem::Posix();
  const std::string& run = options.run_directory;
  MNEMO_ASSIGN_OR_RETURN(const auto lock, LockForCoordinator(fs, run));
  MNEMO_ASSIGN_OR_RETURN(const std::string token, ReadOrMakeToken(run));
  const auto before = ReadCoordinatorFile(fs, run);
  JobLedger ledger(options.terms, ReadJobHistory(fs, run), Now);
  MNEMO_ASSIGN_OR_RETURN(
      auto server, StartServer(ledger, options.listen, before.ok() ? before->address : "", token));
  MNEMO_RETURN_IF_ERROR(WriteCoordinatorFile(
      fs, run, {server->address(), HostName(), ::getpid(), ledger.Status().started_unix_millis()}));
  LogInfo("serving {} at {} for {} ranks{}", run, server->address(), options.terms.workers,
          before.ok() ? ", after a coordinator that died" : "");
  Serve(ledger, options);
  std::this_thread::sleep_for(std::chrono::duration<double>(options.linger_seconds));
  server.reset();
  const v1::JobStatus status = ledger.Status();
  const absl::Status removed = fs.Remove(CoordinatorFilePath(run));
  if (status.state() == v1::FAILED) {
    return absl::AbortedError(
        fmt::format("{} failed after step {}: {}", run, status.step(), status.error()));
  }
  LogInfo("{} has finished after step {}", run, status.step());
  return removed;
}

}  // namespace mnemo
