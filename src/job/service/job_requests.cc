// The users' half of JobLedger.
#include <algorithm>
#include <utility>

#include "src/core/status.h"
#include "src/job/service/job_ledger.h"

namespace mnemo {

v1::JobStatus JobLedger::StatusNow() const {
  v1::JobStatus status;
  status.set_run(terms_.run);
  status.set_state(state_);
  status.set_error(error_);
  status.set_step(step_);
  status.set_steps(terms_.config.train().steps());
  *status.mutable_last() = last_;
  if (first_metrics_ && last_.step() > first_step_ && state_ != v1::FAILED) {
    const double a_step = (clock_() - *first_metrics_) / (last_.step() - first_step_);
    status.set_seconds_left(a_step * std::max<int64_t>(0, status.steps() - step_));
  }
  status.set_last_checkpoint_step(checkpoint_step_);
  status.set_workers_live(static_cast<int32_t>(std::ranges::count_if(workers_, [](const auto& w) {
    return w.info.state() == v1::LIVE || w.info.state() == v1::JOINED;
  })));
  status.set_workers(terms_.workers);
  status.set_started_unix_millis(started_unix_millis_);
  status.set_build(terms_.build);
  return status;
}

v1::JobStatus JobLedger::Status() const {
  std::lock_guard lock(mutex_);
  return StatusNow();
}

v1::ListWorkersResponse JobLedger::Workers() const {
  std::lock_guard lock(mutex_);
  v1::ListWorkersResponse response;
  for (const Worker& worker : workers_) {
    v1::WorkerInfo& info = *response.add_workers();
    info = worker.info;
    if (worker.joined) info.set_seconds_since_report(clock_() - worker.last_report);
  }
  return response;
}

v1::GetPlanResponse JobLedger::Plan() const {
  v1::GetPlanResponse response;
  *response.mutable_plan() = terms_.plan;
  response.set_digest(plan_digest_);
  *response.mutable_config() = terms_.config;
  return response;
}

absl::StatusOr<std::shared_ptr<Watcher>> JobLedger::Watch(int every, std::function<void()> wake) {
  return Locked([&](Effects& effects) -> absl::StatusOr<std::shared_ptr<Watcher>> {
    std::erase_if(watchers_, [](const auto& watcher) { return watcher.expired(); });
    if (watchers_.size() >= kMaxWatchers) {
      return absl::ResourceExhaustedError(
          fmt::format("{} clients watch this job already; end one of them", kMaxWatchers));
    }
    auto watcher = std::make_shared<Watcher>(every, std::move(wake));
    watcher->Offer(std::make_shared<const v1::JobStatus>(StatusNow()), false);
    if (state_ == v1::FINISHED || state_ == v1::FAILED) watcher->Close();
    watchers_.push_back(watcher);
    effects.push_back([watcher] { watcher->Wake(); });
    return watcher;
  });
}

void JobLedger::Publish(bool logged_step, Effects& effects) {
  if (watchers_.empty()) return;
  const auto status = std::make_shared<const v1::JobStatus>(StatusNow());
  std::erase_if(watchers_, [&](const std::weak_ptr<Watcher>& weak) {
    const std::shared_ptr<Watcher> watcher = weak.lock();
    if (watcher == nullptr) return true;
    if (watcher->Offer(status, logged_step)) effects.push_back([watcher] { watcher->Wake(); });
    return false;
  });
}

// To one rank: those that hear of a request tell the others after the step, so two that hear of
// it in different steps would make two checkpoints.
void JobLedger::SendSave(Effects& effects) {
  const auto open = std::ranges::find_if(
      workers_, [](const Worker& worker) { return worker.stream != 0 && !worker.ended; });
  if (open == workers_.end()) return;
  open->save = true;
  effects.push_back(open->wake);
}

void JobLedger::RequestSave(SaveDone done) {
  Locked([&](Effects& effects) {
    absl::Status refused;
    const bool connected =
        std::ranges::any_of(workers_, [](const Worker& worker) { return worker.stream != 0; });
    if (state_ != v1::TRAINING && state_ != v1::SAVING) {
      refused = FailedPrecondition("the job is {} and saves nothing now{}{}",
                                   v1::JobState_Name(state_), error_.empty() ? "" : ": ", error_);
    } else if (!connected) {
      refused = absl::UnavailableError("no worker is connected at the moment; try again");
    } else if (saves_.size() >= kMaxSaves) {
      refused = absl::ResourceExhaustedError("too many wait for a checkpoint already");
    }
    if (!refused.ok()) {
      effects.push_back([done = std::move(done), refused] { done(refused); });
      return;
    }
    saves_.push_back({std::move(done), step_});
    if (state_ == v1::TRAINING) {
      state_ = v1::SAVING;
      SendSave(effects);
      Publish(false, effects);
    }
  });
}

void JobLedger::FinishSaves(const absl::StatusOr<v1::SaveCheckpointResponse>& result, int64_t step,
                            Effects& effects) {
  std::erase_if(saves_, [&](Save& save) {
    if (save.from_step > step) return false;
    effects.push_back([done = std::move(save.done), result] { done(result); });
    return true;
  });
}

v1::StopResponse JobLedger::RequestStop(bool without_checkpoint) {
  return Locked([&](Effects& effects) {
    v1::StopResponse response;
    const bool ended = state_ == v1::FINISHED || state_ == v1::FAILED;
    response.set_last_step(ended ? step_ : step_ + 1);
    if (ended || stop_) return response;
    stop_ = true;
    stop_without_checkpoint_ = without_checkpoint;
    bool any_joined = false;
    for (Worker& worker : workers_) {
      any_joined |= worker.joined;
      worker.stop = true;
      if (worker.stream != 0) effects.push_back(worker.wake);
    }
    SetState(any_joined ? v1::STOPPING : v1::FINISHED, effects);
    return response;
  });
}

}  // namespace mnemo
