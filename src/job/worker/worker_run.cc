#include "src/job/worker/worker_run.h"

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>

#include "src/core/host.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/available_memory.h"
#include "src/job/service/service_files.h"
#include "src/job/service/worker_client.h"
#include "src/job/stop_signals.h"
#include "src/model/plan_inputs.h"
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
  absl::Status Join();
  void Listen();
  absl::StatusOr<TrainingRunResult> JoinAndTrain();
  absl::Status EndWell();
  bool Tells(bool agreed, const absl::Status& aborted, const MpiSession* session) const;
  absl::Status EndBadly(const absl::Status& status);

  WorkerRunOptions options_;
  std::unique_ptr<MpiSession> session_;  // null: not under mpirun
  int rank_ = 0, size_ = 1;
  std::unique_ptr<WorkerClient> client_;
};

// A plan is a pure function of configuration and mesh: ranks that find another one would not do
// what their neighbours wait for.
absl::Status CheckPlan(const v1::JoinResponse& joined) {
  const Mesh mesh = MeshOf(joined.plan());
  v1::RunConfig config = joined.config();
  config.mutable_parallel()->set_dp(mesh.dp);
  config.mutable_parallel()->set_sp(mesh.sp);
  config.mutable_parallel()->set_tp(mesh.tp);
  MNEMO_ASSIGN_OR_RETURN(const v1::Plan own, PlanRun(config, mesh.size()));
  if (PlanDigest(own) == joined.plan_digest()) return absl::OkStatus();
  return FailedPrecondition(
      "the coordinator plans otherwise ({:016x}) than this rank does for the same configuration "
      "({:016x}); install the same build on every host",
      joined.plan_digest(), PlanDigest(own));
}

absl::Status WorkerRun::Join() {
  WorkerOptions worker;
  worker.run_directory = options_.run.run_directory;
  worker.join_seconds = options_.join_seconds;
  worker.self.set_rank(rank_);
  worker.self.set_world_size(size_);
  worker.self.set_build(options_.run.writer);
  worker.self.set_device("CPU");
  worker.self.set_device_bytes(AvailableMemory().value_or(0));
  if (rank_ == 0 && !FileSystem::Posix().Exists(CoordinatorFilePath(worker.run_directory))) {
    LogInfo("waiting for a coordinator of {}; to train without one, name a configuration",
            worker.run_directory);
  }
  MNEMO_ASSIGN_OR_RETURN(client_, WorkerClient::Join(std::move(worker)));
  const v1::JoinResponse& joined = client_->joined();
  MNEMO_RETURN_IF_ERROR(CheckPlan(joined));
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
    // One rank may join at once and another at the last moment.
    const Timeout timeout =
        std::chrono::minutes(10) + std::chrono::seconds(std::llround(options_.join_seconds));
    MNEMO_ASSIGN_OR_RETURN(const auto ranks,
                           Ranks::Create(session_->transport(), {.dp = session_->size()}, timeout));
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

// Whether this rank is the one that speaks. It does so before the others end: the first process
// that ends with an error makes mpirun end the rest.
bool WorkerRun::Tells(bool agreed, const absl::Status& aborted, const MpiSession* session) const {
  bool tells = ShouldTell(rank_, aborted);
  if (tells && !agreed && rank_ > 0) {
    std::this_thread::sleep_for(kGrace);
    tells = session->FirstAlarm() > rank_;
  }
  if (!tells) std::this_thread::sleep_for(2 * kGrace);
  return tells;
}

absl::Status WorkerRun::EndBadly(const absl::Status& status) {
  const absl::Status aborted = session_ ? session_->transport().status() : absl::OkStatus();
  const bool agreed = aborted.ok();
  // Where all agree on the error they can end in peace.
  const bool ended = session_ != nullptr && agreed && session_->Finish().ok();
  // Otherwise left behind on purpose: whatever still uses it must not find it gone.
  MpiSession* session = session_.release();
  if (session != nullptr && !ended) {
    std::thread([session] {
      std::this_thread::sleep_for(kLastResort);
      session->Kill(1);
    }).detach();
  }
  const bool tells = Tells(agreed, aborted, session);
  if (client_ != nullptr) client_->End(status, kEndSeconds);
  if (!tells) return absl::Status(status.code(), "");
  if (agreed || rank_ == 0) return status;
  return absl::Status(status.code(), fmt::format("rank {} on {}: {}", rank_, HostName(),
                                                 std::string(status.message())));
}

absl::StatusOr<TrainingRunResult> WorkerRun::Run() {
  if (StartedByMpi()) {
    MNEMO_ASSIGN_OR_RETURN(session_, MpiSession::Start());
    rank_ = session_->rank();
    size_ = session_->size();
  }
  if (rank_ > 0 && !LogEnabled(LogLevel::kDebug)) SetLogLevel(LogLevel::kError);
  if (size_ > 1) SetLogPrefix(fmt::format("rank {}", rank_));
  const StopSignals signals({.quiet = rank_ > 0, .patient = size_ > 1});
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
