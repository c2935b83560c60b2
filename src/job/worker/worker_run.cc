#include "src/job/worker/worker_run.h"

#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>

#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/service/worker_client.h"
#include "src/job/stop_signals.h"
#include "src/parallel/mpi/session.h"
#include "src/parallel/plan.h"

namespace mnemo {
namespace {

using namespace std::chrono_literals;

// For the rank that has something to say to say it, before mpirun ends it with the others.
constexpr auto kGrace = 500ms;
// For a rank that has failed to end by itself.
constexpr auto kLastResort = 15s;
constexpr double kEndSeconds = 2;  // for a failed rank to tell the coordinator

class WorkerRun {
 public:
  explicit WorkerRun(WorkerRunOptions options) : options_(std::move(options)) {}

  absl::StatusOr<TrainingRunResult> Run();

 private:
  int rank() const { return session_ ? session_->rank() : 0; }
  int size() const { return session_ ? session_->size() : 1; }
  absl::Status Join();
  void Listen();
  absl::StatusOr<TrainingRunResult> JoinAndTrain();
  absl::Status EndWell();
  absl::Status EndBadly(const absl::Status& status);
  absl::Status Quiet(const absl::Status& status) const;

  WorkerRunOptions options_;
  std::unique_ptr<MpiSession> session_;
  std::unique_ptr<WorkerClient> client_;
};

absl::Status WorkerRun::Join() {
  WorkerOptions worker;
  worker.run_directory = options_.run.run_directory;
  worker.join_seconds = options_.join_seconds;
  worker.self.set_rank(rank());
  worker.self.set_world_size(size());
  worker.self.set_build(options_.run.writer);
  worker.self.set_device("CPU");
  MNEMO_ASSIGN_OR_RETURN(client_, WorkerClient::Join(std::move(worker)));
  const v1::JoinResponse& joined = client_->joined();
  if (PlanDigest(joined.plan()) != joined.plan_digest()) {
    return FailedPrecondition(
        "the coordinator's plan has not the digest that it says: {:016x}, not {:016x}; install the "
        "same build on every host",
        PlanDigest(joined.plan()), joined.plan_digest());
  }
  options_.run.written = joined.config();
  options_.run.config_name = "the coordinator's configuration";
  options_.run.plan = joined.plan();
  options_.run.resume_step = joined.resume_step();
  return absl::OkStatus();
}

void WorkerRun::Listen() {
  TrainingRunOptions& run = options_.run;
  run.wishes = [this] {
    StepWishes wishes;
    wishes.save = SaveSignal::Take();
    if (StopSignals::Received() != nullptr) wishes = {.stop = true, .save = true};
    if (client_ == nullptr) return wishes;
    const WorkerCommands asked = client_->TakeCommands();
    wishes.save = wishes.save || asked.save || (asked.stop && !asked.without_checkpoint);
    wishes.stop = wishes.stop || asked.stop;
    return wishes;
  };
  if (client_ == nullptr) return;
  run.on_phase = [this](int64_t step, const char* phase) { client_->At(step, phase); };
  run.on_logged = [this](const v1::StepMetrics& metrics) { client_->Push(metrics); };
  run.on_save = [this](const v1::CheckpointReport& report) { client_->Push(report); };
}

absl::StatusOr<TrainingRunResult> WorkerRun::JoinAndTrain() {
  const absl::Status joined = options_.join ? Join() : absl::OkStatus();
  if (session_ != nullptr) {
    MNEMO_ASSIGN_OR_RETURN(const auto ranks,
                           Ranks::Create(session_->transport(), {.dp = session_->size()}));
    MNEMO_RETURN_IF_ERROR(Agree(*ranks, joined));
    options_.run.transport = &session_->transport();
  }
  MNEMO_RETURN_IF_ERROR(joined);
  Listen();
  return RunTraining(options_.run);
}

absl::Status WorkerRun::EndWell() {
  if (client_ != nullptr) client_->End(absl::OkStatus());
  if (session_ == nullptr) return absl::OkStatus();
  return session_->Finish();
}

// One rank speaks. It does so at once; the others wait for a moment, since the first process that
// ends with an error makes mpirun end the rest.
absl::Status WorkerRun::EndBadly(const absl::Status& status) {
  const absl::Status aborted = session_ ? session_->transport().status() : absl::OkStatus();
  const bool tell = ShouldTell(rank(), aborted);
  absl::Status told = tell ? status : absl::Status(status.code(), "");
  if (tell && rank() > 0) {
    told = absl::Status(status.code(), fmt::format("rank {} on {}: {}", rank(), HostName(),
                                                   std::string(status.message())));
  }
  // Where all agree on the error they can end in peace.
  const bool ended = session_ != nullptr && aborted.ok() && session_->Finish().ok();
  if (session_ != nullptr && !ended) {
    // Left behind on purpose: whatever still uses it must not find it gone.
    MpiSession* session = session_.release();
    std::thread([session] {
      std::this_thread::sleep_for(kLastResort);
      session->Kill(1);
    }).detach();
  }
  if (!tell) std::this_thread::sleep_for(kGrace);
  if (client_ != nullptr) client_->End(status, kEndSeconds);
  return told;
}

absl::StatusOr<TrainingRunResult> WorkerRun::Run() {
  if (StartedByMpi()) {
    MNEMO_ASSIGN_OR_RETURN(session_, MpiSession::Start());
  }
  if (rank() > 0 && !LogEnabled(LogLevel::kDebug)) SetLogLevel(LogLevel::kError);
  if (size() > 1) SetLogPrefix(fmt::format("rank {}", rank()));
  const StopSignals signals({.quiet = rank() > 0, .patient = size() > 1});
  const SaveSignal save;
  absl::StatusOr<TrainingRunResult> result = JoinAndTrain();
  if (!result.ok()) return EndBadly(result.status());
  if (const absl::Status ended = EndWell(); !ended.ok()) return EndBadly(ended);
  return result;
}

}  // namespace

bool StartedByMpi() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

absl::StatusOr<TrainingRunResult> RunWorker(WorkerRunOptions options) {
  return WorkerRun(std::move(options)).Run();
}

}  // namespace mnemo
