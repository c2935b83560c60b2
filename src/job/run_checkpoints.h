// When a training run saves, and what becomes of the result.
//
// Behind the training (SavesBehindTraining), a save copies the state to host memory and lets the
// next step begin; from a GPU it is copied beside that step, which changes nothing of the state
// before the copy is done. Another thread of every rank writes the copy, and these threads commit
// it among themselves, over Ranks::saves(), so that no step waits for them nor has to agree when.
// One save goes on at a time: the next waits for it, which bounds the memory to one copy.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "mnemo/v1/checkpoint.pb.h"
#include "mnemo/v1/job.pb.h"
#include "src/ckpt/state_snapshot.h"
#include "src/core/file_system.h"
#include "src/job/trainer.h"
#include "src/job/training_checkpoint.h"

namespace mnemo {

// Every rank has one and calls it in the same order, on the thread that trains. The destructor
// waits for the save that goes on.
class RunCheckpoints {
 public:
  struct Options {
    FileSystem* fs = nullptr;
    std::string directory;  // RUN/checkpoints
    // Writer, config, plan, tokenizer, data_digest; and tokens_seen by `start`. Of the first rank.
    v1::CheckpointManifest about;
    int64_t start = 0;  // the step from which the run goes on
    // Targets of step s + 1 that count, for tokens_seen. Of the first rank.
    std::function<absl::StatusOr<int64_t>(int64_t s)> valid_targets;
    // On the first rank; both may be empty. Called before each save; and told of every save, well
    // or badly, by the call in which its end is noticed.
    std::function<void()> before_save;
    std::function<void(const v1::CheckpointReport&)> on_save;
  };
  // `trainer` outlives it, and tells it when a step is about to change the state.
  RunCheckpoints(Options options, Trainer& trainer);
  ~RunCheckpoints();
  RunCheckpoints(const RunCheckpoints&) = delete;

  // Takes the memory for copies from a GPU, page-locked, which would hold up the first save. Says
  // so in the log of the first rank.
  absl::Status Reserve();

  // By train.checkpoint_every.
  bool Due() const;
  // By train.checkpoint_minutes since the last save or the start. Never on other ranks than the
  // first: its clock counts, and the others have to be told.
  bool DueByClock() const;
  // The held-out loss after the step at hand: a save of this step keeps it.
  void Evaluated(double loss) { evaluated_ = {trainer_.step(), loss}; }

  // Saves this moment's step, unless that has been done: behind the training or before it returns.
  // Old checkpoints that RetentionOf does not keep are removed then. A save that fails is an error
  // in the log of the first rank, counted, and changes nothing: the run goes on. The result is an
  // error where the ranks cannot talk any more: they are aborted.
  absl::Status Save();
  // The same of a run that ends here: all that is to be saved has been when it returns, and what
  // went wrong with this step is the result, on all ranks, and not in the log.
  absl::Status SaveLast();
  // Sees whether the save behind the training has ended. Waits for nothing.
  void Poll();
  // Of a run that ends here and saves no more: waits for it. The result is Save's.
  absl::Status Wait();

  // What saves have cost the steps since they were `recorded` last, and how many failed.
  void Describe(bool recorded, v1::StepMetrics& metrics);

  // In the log of the first rank.
  void TellFailure(int64_t step, const absl::Status& why) const;
  int64_t saved_step() const { return saved_step_; }  // of the newest checkpoint; 0: none
  // The newest one's directory, if this run has written one.
  const std::string& newest() const { return newest_; }
  int64_t failed() const { return failed_; }  // saves of this process

 private:
  using Clock = std::chrono::steady_clock;
  struct Written {
    absl::StatusOr<std::string> directory;
    double seconds = 0;
  };
  struct Behind {
    int64_t step = 0;
    double stall = 0;  // seconds that the steps have waited for it
    bool copied = false;
    std::future<Written> written;
  };
  static double SecondsSince(Clock::time_point begin);

  absl::StatusOr<SavedTraining> Collect();
  absl::Status CountTokens();
  Written Write(const absl::StatusOr<SavedTraining>& saved, Communicator& group) const;
  absl::Status AwaitCopy();
  absl::Status SaveHere(Clock::time_point begin);
  void SaveBehind(Clock::time_point begin);
  absl::Status Settle();
  void Land();
  void TakeUp(int64_t step, const Written& written);

  Options options_;
  Trainer& trainer_;
  std::string newest_;
  int64_t saved_step_;
  int64_t counted_step_;                         // tokens_seen counts the tokens up to here
  std::pair<int64_t, double> evaluated_{-1, 0};  // step, loss
  Clock::time_point last_save_ = Clock::now();   // begun, well or badly
  double stall_ = 0, waited_ = 0;                // seconds, since they were recorded
  int64_t failed_ = 0;
  bool ending_ = false;
  StateSnapshot snapshot_;
  std::optional<Behind> behind_;  // last: its thread uses the others
};

}  // namespace mnemo
