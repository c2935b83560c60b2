#include "src/job/run_checkpoints.h"

#include "src/ckpt/checkpoint_retention.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/model/door.h"
#include "src/model/execution.h"
#include "src/parallel/plan.h"

namespace mnemo {

double RunCheckpoints::SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

RunCheckpoints::RunCheckpoints(Options options, Trainer& trainer)
    : options_(std::move(options)),
      trainer_(trainer),
      saved_step_(options_.start),
      counted_step_(options_.start) {
  trainer_.BeforeUpdate([this] { return AwaitCopy(); });
}

RunCheckpoints::~RunCheckpoints() { trainer_.BeforeUpdate(nullptr); }

absl::Status RunCheckpoints::Reserve() {
  const bool on_gpu = ComputeDevice(trainer_.config().execution()) != Device();
  if (!on_gpu || !SavesBehindTraining(trainer_.config().train())) return absl::OkStatus();
  return AtTheDoor([&]() -> absl::Status {
    MNEMO_RETURN_IF_ERROR(snapshot_.Reserve(CollectTraining({}, trainer_).pieces));
    if (trainer_.ranks().first()) {
      LogInfo("{} of host memory taken for copies of what is saved", PrintBytes(snapshot_.bytes()));
    }
    return absl::OkStatus();
  });
}

// The step at hand is about to change what is being copied.
absl::Status RunCheckpoints::AwaitCopy() {
  if (!behind_ || behind_->copied) return absl::OkStatus();
  const Clock::time_point begin = Clock::now();
  const absl::Status copied = snapshot_.Wait();
  const double seconds = SecondsSince(begin);
  behind_->copied = true;
  behind_->stall += seconds;
  stall_ += seconds;
  return copied;
}

bool RunCheckpoints::Due() const {
  const int64_t every = trainer_.config().train().checkpoint_every();
  return every > 0 && trainer_.step() % every == 0;
}

bool RunCheckpoints::DueByClock() const {
  const double minutes = trainer_.config().train().checkpoint_minutes();
  return minutes > 0 && trainer_.ranks().first() && SecondsSince(last_save_) >= 60 * minutes;
}

absl::Status RunCheckpoints::CountTokens() {
  v1::TrainingState& state = *options_.about.mutable_training();
  for (; counted_step_ < trainer_.step(); ++counted_step_) {
    MNEMO_ASSIGN_OR_RETURN(const int64_t targets, options_.valid_targets(counted_step_));
    state.set_tokens_seen(state.tokens_seen() + targets);
  }
  return absl::OkStatus();
}

absl::StatusOr<SavedTraining> RunCheckpoints::Collect() {
  last_save_ = Clock::now();
  if (trainer_.ranks().first()) {
    if (options_.before_save) options_.before_save();
    if (const absl::Status counted = CountTokens(); !counted.ok()) {
      LogWarning("tokens_seen lacks some steps: {}", std::string(counted.message()));
    }
    v1::TrainingState& state = *options_.about.mutable_training();
    state.clear_evaluation_loss();
    if (evaluated_.first == trainer_.step()) state.set_evaluation_loss(evaluated_.second);
  }
  return AtTheDoor(
      [&]() -> absl::StatusOr<SavedTraining> { return CollectTraining(options_.about, trainer_); });
}

RunCheckpoints::Written RunCheckpoints::Write(const absl::StatusOr<SavedTraining>& saved,
                                              Communicator& group) const {
  const Clock::time_point begin = Clock::now();
  Written written;
  written.directory = WriteTraining(*options_.fs, options_.directory, saved, trainer_.ranks(),
                                    group, {.keep = RetentionOf(trainer_.config().train())});
  written.seconds = SecondsSince(begin);
  return written;
}

void RunCheckpoints::TakeUp(int64_t step, const Written& written) {
  const bool first = trainer_.ranks().first();
  v1::CheckpointReport report;
  report.set_step(step);
  if (written.directory.ok()) {
    newest_ = *written.directory;
    saved_step_ = step;
    report.set_path(newest_);
  } else {
    ++failed_;
    report.set_error(std::string(written.directory.status().message()));
  }
  if (first && options_.on_save) options_.on_save(report);
}

void RunCheckpoints::TellFailure(int64_t step, const absl::Status& why) const {
  if (!trainer_.ranks().first()) return;
  LogError("STEP {} IS NOT SAVED: {}; {}{}", step, std::string(why.message()),
           ending_ ? "" : "training goes on, ",
           saved_step_ > 0 ? fmt::format("the checkpoint of step {} stays", saved_step_)
                           : "there is no checkpoint yet");
}

absl::Status RunCheckpoints::SaveHere(Clock::time_point begin) {
  const int64_t step = trainer_.step();
  const Written written = Write(Collect(), trainer_.ranks().world());
  const double stall = SecondsSince(begin);
  stall_ += stall;
  TakeUp(step, written);
  if (written.directory.ok() && trainer_.ranks().first()) {
    LogInfo("step {} is saved in {}; training stood still for {:.3f} s", step, newest_, stall);
  }
  return written.directory.status();
}

void RunCheckpoints::SaveBehind(Clock::time_point begin) {
  absl::StatusOr<SavedTraining> saved = Collect();
  if (saved.ok()) {
    auto copied = snapshot_.Take(saved->pieces);
    if (copied.ok()) {
      saved->pieces = *std::move(copied);
    } else {
      saved = copied.status();
    }
  }
  behind_.emplace();
  behind_->step = trainer_.step();
  behind_->copied = !snapshot_.under_way();
  behind_->written = std::async(std::launch::async, [this, saved = std::move(saved)]() mutable {
    if (const absl::Status copied = snapshot_.Wait(); !copied.ok()) saved = copied;
    return Write(saved, trainer_.ranks().saves());
  });
  behind_->stall = SecondsSince(begin);
  stall_ += behind_->stall;
}

void RunCheckpoints::Land() {
  const Written written = behind_->written.get();
  const int64_t step = behind_->step;
  const double stall = behind_->stall;
  behind_.reset();
  TakeUp(step, written);
  if (!written.directory.ok()) {
    if (trainer_.ranks().status().ok()) TellFailure(step, written.directory.status());
  } else if (trainer_.ranks().first()) {
    LogInfo("step {} is saved in {}; training stood still for {:.3f} s, it was written in {:.3f} s",
            step, newest_, stall, written.seconds);
  }
}

void RunCheckpoints::Poll() {
  using namespace std::chrono_literals;
  if (behind_ && behind_->written.wait_for(0s) == std::future_status::ready) Land();
}

absl::Status RunCheckpoints::Settle() {
  if (behind_) Land();
  return trainer_.ranks().status();
}

absl::Status RunCheckpoints::Wait() {
  ending_ = true;
  return Settle();
}

absl::Status RunCheckpoints::Save() {
  const Clock::time_point begin = Clock::now();
  MNEMO_RETURN_IF_ERROR(Settle());
  if (saved_step_ == trainer_.step()) return absl::OkStatus();
  waited_ += SecondsSince(begin);
  if (SavesBehindTraining(trainer_.config().train())) {
    SaveBehind(begin);
    return absl::OkStatus();
  }
  const absl::Status saved = SaveHere(begin);
  MNEMO_RETURN_IF_ERROR(trainer_.ranks().status());
  if (!saved.ok()) TellFailure(trainer_.step(), saved);
  return absl::OkStatus();
}

absl::Status RunCheckpoints::SaveLast() {
  const Clock::time_point begin = Clock::now();
  MNEMO_RETURN_IF_ERROR(Wait());
  snapshot_.Release();
  if (saved_step_ == trainer_.step()) return absl::OkStatus();
  return SaveHere(begin);
}

void RunCheckpoints::Describe(bool recorded, v1::StepMetrics& metrics) {
  metrics.mutable_seconds()->set_checkpoint(stall_);
  metrics.mutable_seconds()->set_checkpoint_wait(waited_);
  metrics.set_failed_saves(failed_);
  if (recorded) stall_ = waited_ = 0;
}

}  // namespace mnemo
