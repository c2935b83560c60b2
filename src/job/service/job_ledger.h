// What the coordinator knows of its job: who is in it, how far it is, what was asked of it. No
// network and no files, so that all of it can be tested with a clock of the test's own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/job.pb.h"
#include "mnemo/v1/plan.pb.h"
#include "src/job/service/watcher.h"

namespace mnemo {

// What does not change as long as the job lives.
struct JobTerms {
  std::string run;  // its name
  v1::RunConfig config;
  v1::Plan plan;
  int workers = 1;
  std::string build;           // every rank's must be the same
  double silent_seconds = 10;  // without a report, after which a worker is lost and the job failed
  double join_seconds = 120;   // for all ranks to join
  double heartbeat_seconds() const;
};

// What a run directory says of the time before this coordinator.
struct JobHistory {
  v1::StepMetrics last;         // step 0: none
  int64_t checkpoint_step = 0;  // 0: none
  // A coordinator died, and the run that it served has written its model since.
  bool model_written = false;
  int64_t started_unix_millis = 0;
};

// Thread-safe. Nothing here waits: callbacks (`wake`, `done`) run on the calling thread after all
// locks are released, and must not wait either. Errors are for users: one line.
class JobLedger {
 public:
  using Clock = std::function<double()>;  // monotonic seconds
  using SaveDone = std::function<void(absl::StatusOr<v1::SaveCheckpointResponse>)>;

  static constexpr size_t kMaxWatchers = 1024, kMaxSaves = 64;

  JobLedger(JobTerms terms, JobHistory history, Clock clock);
  ~JobLedger();  // answers what is still open
  JobLedger(const JobLedger&) = delete;
  JobLedger& operator=(const JobLedger&) = delete;

  // Workers. FailedPrecondition where world size, build or plan differ; AlreadyExists where another
  // process has the rank. A rank that joined before comes back with the same host and process.
  absl::StatusOr<v1::JoinResponse> Join(const v1::JoinRequest& request);
  // A rank's stream of reports begins; it replaces an older one. `wake`: there are commands to
  // take. Returns the stream's number. FailedPrecondition if the rank has not joined.
  absl::StatusOr<uint64_t> OpenReports(int rank, std::function<void()> wake);
  // FailedPrecondition if the stream has been replaced.
  absl::Status Report(uint64_t stream, const v1::WorkerReport& report);
  // The stream is over. Unless the rank has ended it has `silent_seconds` to come back.
  void CloseReports(uint64_t stream);
  std::optional<v1::WorkerCommand> TakeCommand(uint64_t stream);

  // Users.
  v1::JobStatus Status() const;
  v1::ListWorkersResponse Workers() const;
  v1::GetPlanResponse Plan() const;
  // The status as it is now is the first update. ResourceExhausted beyond kMaxWatchers. The watcher
  // is forgotten when the caller drops it.
  absl::StatusOr<std::shared_ptr<Watcher>> Watch(int every, std::function<void()> wake);
  // `done` is called once: when a checkpoint of this moment's step or a later one is committed or
  // has failed, or the job has ended.
  void RequestSave(SaveDone done);
  // Asking again changes nothing.
  v1::StopResponse RequestStop(bool without_checkpoint);

  // The coordinator. Looks at the deadlines; call it several times a second. Where the calls lie
  // far apart this process was stopped and heard of nobody: all deadlines move by as much.
  void Tick();
  bool Ended() const;
  // Fails the job unless it has ended.
  void Fail(const std::string& error);

 private:
  struct Worker {
    v1::WorkerInfo info;  // state unspecified: has not joined
    bool joined = false, ended = false;
    double last_report = 0;
    uint64_t stream = 0;  // 0: none is open
    std::function<void()> wake;
    bool save = false, stop = false;  // commands to send
  };
  struct Save {
    SaveDone done;
    int64_t from_step;  // the least step that answers it
  };
  // What is to be called once the lock is released.
  using Effects = std::vector<std::function<void()>>;
  // Calls f(effects) with the lock held, then the effects without it.
  template <typename F>
  auto Locked(F f) {
    struct Run {
      ~Run() {
        for (const auto& effect : effects) effect();
      }
      Effects effects;
    } run;
    std::lock_guard lock(mutex_);  // released before `run` is destroyed
    return f(run.effects);
  }

  absl::Status CheckJoin(const v1::JoinRequest& request) const;
  Worker* FindStream(uint64_t stream);
  v1::JobStatus StatusNow() const;
  std::string Describe(const Worker& worker) const;
  void TakeMetrics(const v1::StepMetrics& metrics, Effects& effects);
  void TakeCheckpoint(const v1::CheckpointReport& report, Effects& effects);
  void TakeEnd(Worker& worker, const v1::WorkerEnd& end, Effects& effects);
  void ForgivePause();
  void CheckDeadlines(Effects& effects);
  void SetState(v1::JobState state, Effects& effects);
  void FailNow(const std::string& error, Effects& effects);
  void FinishSaves(const absl::StatusOr<v1::SaveCheckpointResponse>& result, int64_t step,
                   Effects& effects);
  void SendSave(Effects& effects);
  void Publish(bool logged_step, Effects& effects);

  const JobTerms terms_;
  const uint64_t plan_digest_;
  const Clock clock_;
  const int64_t started_unix_millis_;
  const bool complete_;  // before this coordinator came; only ends may be missing

  mutable std::mutex mutex_;
  v1::JobState state_ = v1::WAITING;
  double began_, ticked_;  // the time to join counts from; the last Tick
  std::string error_;
  std::vector<Worker> workers_;
  v1::StepMetrics last_;
  int64_t step_ = 0, checkpoint_step_ = 0;
  std::optional<double> first_metrics_;  // when, for the time left
  int64_t first_step_ = 0;
  bool stop_ = false, stop_without_checkpoint_ = false;
  std::vector<Save> saves_;
  uint64_t streams_ = 0;
  std::vector<std::weak_ptr<Watcher>> watchers_;
};

}  // namespace mnemo
