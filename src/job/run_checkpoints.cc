#include "src/job/run_checkpoints.h"

#include "src/ckpt/checkpoint_retention.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/training_checkpoint.h"

namespace mnemo {

bool RunCheckpoints::Due() const {
  const int64_t every = trainer_.config().train().checkpoint_every();
  return every > 0 && trainer_.step() % every == 0;
}

bool RunCheckpoints::DueByClock() const {
  const double minutes = trainer_.config().train().checkpoint_minutes();
  return minutes > 0 && trainer_.ranks().first() &&
         Clock::now() - last_save_ >= std::chrono::duration<double, std::ratio<60>>(minutes);
}

void RunCheckpoints::NoteLoss() {
  v1::TrainingState& state = *options_.about.mutable_training();
  state.clear_evaluation_loss();
  if (evaluated_.first == trainer_.step()) state.set_evaluation_loss(evaluated_.second);
}

absl::Status RunCheckpoints::CountTokens() {
  v1::TrainingState& state = *options_.about.mutable_training();
  for (; counted_step_ < trainer_.step(); ++counted_step_) {
    MNEMO_ASSIGN_OR_RETURN(const int64_t targets, stream_.ValidTargets(counted_step_));
    state.set_tokens_seen(state.tokens_seen() + targets);
  }
  return absl::OkStatus();
}

absl::Status RunCheckpoints::Save() {
  const int64_t step = trainer_.step();
  if (saved_step_ == step) return absl::OkStatus();
  last_save_ = Clock::now();
  const bool first = trainer_.ranks().first();
  if (const absl::Status counted = first ? CountTokens() : absl::OkStatus(); !counted.ok()) {
    LogWarning("tokens_seen lacks some steps: {}", std::string(counted.message()));
  }
  NoteLoss();
  const absl::StatusOr<std::string> saved =
      SaveTraining(*options_.fs, options_.directory, options_.about, trainer_);
  v1::CheckpointReport report;
  report.set_step(step);
  if (saved.ok()) {
    newest_ = *saved;
    saved_step_ = step;
    report.set_path(*saved);
    if (first) LogInfo("step {} is saved in {}", step, *saved);
    if (first) Prune();
  } else {
    report.set_error(std::string(saved.status().message()));
  }
  if (first && options_.on_save) options_.on_save(report);
  return saved.status();
}

void RunCheckpoints::Prune() const {
  const auto removed =
      PruneCheckpoints(*options_.fs, options_.directory, RetentionOf(trainer_.config().train()));
  if (!removed.ok()) {
    LogWarning("cannot remove old checkpoints: {}", std::string(removed.status().message()));
  }
}

}  // namespace mnemo
