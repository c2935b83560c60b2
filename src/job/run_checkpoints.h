// When a training run saves, and what becomes of the result.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "mnemo/v1/checkpoint.pb.h"
#include "mnemo/v1/job.pb.h"
#include "src/core/file_system.h"
#include "src/data/sample_stream.h"
#include "src/job/trainer.h"

namespace mnemo {

// Every rank has one and calls it in the same order.
class RunCheckpoints {
 public:
  struct Options {
    FileSystem* fs = nullptr;
    std::string directory;  // RUN/checkpoints
    // Writer, config, plan, tokenizer, data_digest; and tokens_seen by `start`. Of the first rank.
    v1::CheckpointManifest about;
    int64_t start = 0;  // the step from which the run goes on
    // Told on the first rank of every save, well or badly. May be empty.
    std::function<void(const v1::CheckpointReport&)> on_save;
  };
  // `trainer` and `stream` outlive it.
  RunCheckpoints(Options options, Trainer& trainer, const SampleStream& stream)
      : options_(std::move(options)),
        trainer_(trainer),
        stream_(stream),
        saved_step_(options_.start),
        counted_step_(options_.start) {}

  // By train.checkpoint_every.
  bool Due() const;
  // By train.checkpoint_minutes since the last save or the start. Never on other ranks than the
  // first: its clock counts, and the others have to be told.
  bool DueByClock() const;
  // The held-out loss after the step at hand: a save of this step keeps it.
  void Evaluated(double loss) { evaluated_ = {trainer_.step(), loss}; }
  // Saves this moment's step, unless that has been done, and removes old checkpoints that
  // RetentionOf does not keep. A save that fails is the result, on all ranks, and changes nothing:
  // the run can go on. Where the ranks cannot talk any more they are aborted.
  absl::Status Save();
  int64_t saved_step() const { return saved_step_; }  // of the newest checkpoint; 0: none
  // The newest one's directory, if this run has written one.
  const std::string& newest() const { return newest_; }

 private:
  using Clock = std::chrono::steady_clock;
  absl::Status CountTokens();
  void NoteLoss();
  void Prune() const;

  Options options_;
  Trainer& trainer_;
  const SampleStream& stream_;
  std::string newest_;
  int64_t saved_step_;
  int64_t counted_step_;                         // tokens_seen counts the tokens up to here
  std::pair<int64_t, double> evaluated_{-1, 0};  // step, loss
  Clock::time_point last_save_ = Clock::now();   // begun, well or badly
};

}  // namespace mnemo
