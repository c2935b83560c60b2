#include "src/job/service/job_ledger.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "src/core/log.h"
#include "src/core/status.h"
#include "src/parallel/plan.h"

namespace mnemo {
namespace {

constexpr size_t kMaxText = 4096;  // bytes of a text that a worker sends

std::string Bounded(const std::string& text) { return text.substr(0, kMaxText); }

int64_t NowUnixMillis() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

bool HasEnded(v1::JobState state) { return state == v1::FINISHED || state == v1::FAILED; }

}  // namespace

double JobTerms::heartbeat_seconds() const { return std::min(1.0, silent_seconds / 5); }

JobLedger::JobLedger(JobTerms terms, JobHistory history, Clock clock)
    : terms_(std::move(terms)),
      plan_digest_(PlanDigest(terms_.plan)),
      clock_(std::move(clock)),
      started_unix_millis_(history.started_unix_millis > 0 ? history.started_unix_millis
                                                           : NowUnixMillis()),
      complete_(history.model_written && history.last.step() >= terms_.config.train().steps()),
      began_(clock_()),
      ticked_(began_),
      workers_(static_cast<size_t>(terms_.workers)),
      last_(std::move(history.last)),
      step_(std::max(last_.step(), history.checkpoint_step)),
      checkpoint_step_(history.checkpoint_step) {
  for (int rank = 0; rank < terms_.workers; ++rank) workers_[rank].info.set_rank(rank);
}

JobLedger::~JobLedger() {
  Effects effects;
  FinishSaves(absl::UnavailableError("the coordinator is ending"), INT64_MAX, effects);
  for (const auto& effect : effects) effect();
}

// "rank 2 (host a7, process 4711), last heard of 10.2 s ago at step 41 in backward".
std::string JobLedger::Describe(const Worker& worker) const {
  const v1::WorkerInfo& info = worker.info;
  return fmt::format("rank {} (host {}, process {}), last heard of {:.1f} s ago at step {} in {}",
                     info.rank(), info.host(), info.process(), clock_() - worker.last_report,
                     info.step(), info.last_operation());
}

absl::Status JobLedger::CheckJoin(const v1::JoinRequest& request) const {
  const std::string who = fmt::format("rank {} on {}", request.rank(), Bounded(request.host()));
  if (HasEnded(state_)) {
    return FailedPrecondition("{} cannot join: the job has ended{}{}", who,
                              error_.empty() ? "" : ": ", error_);
  }
  if (request.world_size() != terms_.workers) {
    return FailedPrecondition(
        "{} belongs to a world of {} ranks, but the plan is for {}: start as many as "
        "parallel.dp x sp x tp says",
        who, request.world_size(), terms_.workers);
  }
  if (request.rank() < 0 || request.rank() >= terms_.workers) {
    return InvalidArgument("{} cannot join: there are ranks 0 to {}", who, terms_.workers - 1);
  }
  if (request.build() != terms_.build) {
    return FailedPrecondition(
        "{} runs another build ({}) than the coordinator ({}): install the same on every host", who,
        Bounded(request.build()), terms_.build);
  }
  if (request.plan_digest() != 0 && request.plan_digest() != plan_digest_) {
    return FailedPrecondition(
        "{} follows another plan ({:016x}) than the coordinator's ({:016x}): it belongs to another "
        "run, or the configuration was changed since",
        who, request.plan_digest(), plan_digest_);
  }
  const Worker& worker = workers_[request.rank()];
  const bool same =
      worker.info.host() == request.host() && worker.info.process() == request.process();
  if (worker.joined && !same) {
    return absl::AlreadyExistsError(
        fmt::format("{} cannot join: {} has that rank; end that job first", who, Describe(worker)));
  }
  if (worker.ended) return FailedPrecondition("{} cannot join: it has ended already", who);
  return absl::OkStatus();
}

absl::StatusOr<v1::JoinResponse> JobLedger::Join(const v1::JoinRequest& request) {
  return Locked([&](Effects& effects) -> absl::StatusOr<v1::JoinResponse> {
    MNEMO_RETURN_IF_ERROR(CheckJoin(request));
    Worker& worker = workers_[request.rank()];
    // A run that goes on from a checkpoint takes steps again that its metrics have.
    const bool first = std::ranges::none_of(workers_, [](const Worker& w) { return w.joined; });
    if (first) step_ = checkpoint_step_;
    worker.joined = true;
    worker.last_report = clock_();
    worker.info.set_host(Bounded(request.host()));
    worker.info.set_process(request.process());
    worker.info.set_device(Bounded(request.device()));
    worker.info.set_state(v1::JOINED);
    worker.info.set_last_operation("start");
    worker.info.set_step(request.step());
    step_ = std::max(step_, request.step());
    const bool all = std::ranges::all_of(workers_, [](const Worker& w) { return w.joined; });
    if (all && state_ == v1::WAITING) SetState(v1::TRAINING, effects);
    v1::JoinResponse response;
    *response.mutable_config() = terms_.config;
    *response.mutable_plan() = terms_.plan;
    response.set_plan_digest(plan_digest_);
    response.set_heartbeat_seconds(terms_.heartbeat_seconds());
    response.set_resume_step(checkpoint_step_);
    return response;
  });
}

absl::StatusOr<uint64_t> JobLedger::OpenReports(int rank, std::function<void()> wake) {
  return Locked([&](Effects& effects) -> absl::StatusOr<uint64_t> {
    if (rank < 0 || rank >= terms_.workers || !workers_[rank].joined || workers_[rank].ended) {
      return FailedPrecondition("rank {} has to join before it reports", rank);
    }
    Worker& worker = workers_[rank];
    worker.stream = ++streams_;
    worker.wake = std::move(wake);
    worker.stop = stop_;
    worker.info.set_state(v1::LIVE);
    worker.last_report = clock_();
    if (worker.stop) effects.push_back(worker.wake);
    if (state_ == v1::SAVING) SendSave(effects);  // who had been asked may not have heard
    return worker.stream;
  });
}

JobLedger::Worker* JobLedger::FindStream(uint64_t stream) {
  const auto found = std::ranges::find(workers_, stream, &Worker::stream);
  return stream == 0 || found == workers_.end() ? nullptr : &*found;
}

absl::Status JobLedger::Report(uint64_t stream, const v1::WorkerReport& report) {
  return Locked([&](Effects& effects) -> absl::Status {
    Worker* worker = FindStream(stream);
    if (worker == nullptr) return FailedPrecondition("this stream of reports has been replaced");
    worker->last_report = clock_();
    worker->info.set_state(v1::LIVE);
    worker->info.set_step(report.step());
    worker->info.set_last_operation(Bounded(report.operation()));
    step_ = std::max(step_, report.step());
    // Loss and norm are those of all ranks; times are rank 0's.
    if (report.has_metrics() && worker->info.rank() == 0) TakeMetrics(report.metrics(), effects);
    if (report.has_checkpoint()) TakeCheckpoint(report.checkpoint(), effects);
    if (report.has_end()) TakeEnd(*worker, report.end(), effects);
    return absl::OkStatus();
  });
}

void JobLedger::CloseReports(uint64_t stream) {
  Locked([&](Effects& effects) {
    Worker* worker = FindStream(stream);
    if (worker == nullptr) return;
    worker->stream = 0;
    worker->wake = nullptr;
    worker->info.set_state(v1::GONE);
    if (!worker->ended) {
      LogWarning("{}: its connection is closed", Describe(*worker));
      Publish(false, effects);
    }
  });
}

std::optional<v1::WorkerCommand> JobLedger::TakeCommand(uint64_t stream) {
  return Locked([&](Effects&) -> std::optional<v1::WorkerCommand> {
    Worker* worker = FindStream(stream);
    v1::WorkerCommand command;
    if (worker == nullptr) return std::nullopt;
    if (std::exchange(worker->save, false)) {
      command.mutable_save();
    } else if (std::exchange(worker->stop, false)) {
      command.mutable_stop()->set_without_checkpoint(stop_without_checkpoint_);
    } else {
      return std::nullopt;
    }
    return command;
  });
}

void JobLedger::TakeMetrics(const v1::StepMetrics& metrics, Effects& effects) {
  last_ = metrics;
  step_ = first_metrics_ ? std::max(step_, metrics.step()) : metrics.step();
  if (!first_metrics_) {
    first_metrics_ = clock_();
    first_step_ = metrics.step();
  }
  Publish(true, effects);
}

void JobLedger::TakeCheckpoint(const v1::CheckpointReport& report, Effects& effects) {
  if (!report.error().empty()) {
    FinishSaves(
        Internal("the checkpoint of step {} failed: {}", report.step(), Bounded(report.error())),
        report.step(), effects);
  } else {
    // Lower than before where the newest was found damaged.
    if (!first_metrics_ && report.step() < checkpoint_step_) step_ = report.step();
    checkpoint_step_ = report.step();
    v1::SaveCheckpointResponse response;
    response.set_step(report.step());
    response.set_path(Bounded(report.path()));
    FinishSaves(response, report.step(), effects);
  }
  if (state_ == v1::SAVING) {
    if (saves_.empty()) {
      state_ = v1::TRAINING;
    } else {
      SendSave(effects);  // asked for while an earlier step was being saved
    }
  }
  Publish(false, effects);
}

void JobLedger::TakeEnd(Worker& worker, const v1::WorkerEnd& end, Effects& effects) {
  worker.ended = true;
  worker.info.set_state(v1::GONE);
  step_ = std::max(step_, end.step());
  if (!end.error().empty()) {
    return FailNow(
        fmt::format("rank {} (host {}, process {}) ended after step {}: {}", worker.info.rank(),
                    worker.info.host(), worker.info.process(), end.step(), Bounded(end.error())),
        effects);
  }
  const bool all = std::ranges::all_of(workers_, [](const Worker& w) { return w.ended; });
  if (all && !HasEnded(state_)) SetState(v1::FINISHED, effects);
}

// Stopped (SIGSTOP), swapped out, or moved with its virtual machine: no rank's fault.
void JobLedger::ForgivePause() {
  const double now = clock_(), pause = now - std::exchange(ticked_, now);
  if (pause <= terms_.silent_seconds / 4) return;
  if (pause >= terms_.silent_seconds) {
    LogWarning("this coordinator was stopped for {:.1f} s: the ranks get as much more time", pause);
  }
  began_ = std::min(now, began_ + pause);
  for (Worker& worker : workers_) worker.last_report = std::min(now, worker.last_report + pause);
}

void JobLedger::CheckDeadlines(Effects& effects) {
  const double now = clock_();
  std::vector<std::string> absent;
  for (Worker& worker : workers_) {
    if (!worker.joined) absent.push_back(fmt::format("{}", worker.info.rank()));
    if (!worker.joined || worker.ended) continue;
    if (now - worker.last_report < terms_.silent_seconds) continue;
    const bool closed = worker.info.state() == v1::GONE;
    if (!closed) worker.info.set_state(v1::SILENT);
    return FailNow(fmt::format("lost {}: {}", Describe(worker),
                               closed ? "it is gone" : "it is silent (stopped, or cut off)"),
                   effects);
  }
  if (absent.empty()) return;
  // Who is absent told the coordinator before this one that it had ended.
  const bool idle = std::ranges::all_of(
      workers_, [](const Worker& worker) { return !worker.joined || worker.ended; });
  if (complete_ && idle && now - began_ >= terms_.silent_seconds) {
    return SetState(v1::FINISHED, effects);
  }
  if (now - began_ < terms_.join_seconds) return;
  FailNow(fmt::format("{} of {} ranks have not joined within {:.0f} s: {}; look at their output, "
                      "and whether their hosts see the run directory and reach this one; "
                      "--join-seconds gives them longer",
                      absent.size(), terms_.workers, terms_.join_seconds, fmt::join(absent, ", ")),
          effects);
}

void JobLedger::Tick() {
  Locked([&](Effects& effects) {
    ForgivePause();
    if (!HasEnded(state_)) CheckDeadlines(effects);
  });
}

bool JobLedger::Ended() const {
  std::lock_guard lock(mutex_);
  return HasEnded(state_);
}

void JobLedger::Fail(const std::string& error) {
  Locked([&](Effects& effects) { FailNow(error, effects); });
}

void JobLedger::FailNow(const std::string& error, Effects& effects) {
  if (HasEnded(state_)) return;
  error_ = error;
  SetState(v1::FAILED, effects);
}

void JobLedger::SetState(v1::JobState state, Effects& effects) {
  state_ = state;
  if (HasEnded(state)) {
    FinishSaves(absl::AbortedError(error_.empty() ? "the job has ended"
                                                  : fmt::format("the job has failed: {}", error_)),
                INT64_MAX, effects);
  }
  Publish(false, effects);
  if (!HasEnded(state)) return;
  for (const auto& weak : watchers_) {
    if (auto watcher = weak.lock()) {
      watcher->Close();
      effects.push_back([watcher] { watcher->Wake(); });
    }
  }
}

}  // namespace mnemo
