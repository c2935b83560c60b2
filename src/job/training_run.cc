#include "src/job/training_run.h"

#include <chrono>
#include <memory>
#include <utility>

#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/held_out.h"
#include "src/job/run_setup.h"
#include "src/model/door.h"
#include "src/model/tensor_split.h"
#include "src/parallel/plan.h"

namespace mnemo {
namespace {

// One rank's part of a run. What returns a Status here returns it on all ranks: either all know of
// the error, or the ranks have been aborted.
class Run {
 public:
  explicit Run(const TrainingRunOptions& options) : options_(options) {}

  absl::Status Prepare();
  // Steps until the end, a wish to stop or an error.
  absl::Status Loop();
  // Saves and writes what the run leaves behind. Returns `status`, how the loop ended, or worse.
  absl::Status Finish(absl::Status status);

  TrainingRunResult& result() { return result_; }

 private:
  absl::Status StepOnce();
  absl::Status EvaluateAfterStep(v1::StepMetrics& metrics);
  void Record(v1::StepMetrics& metrics, bool logged);
  void Hear();
  absl::Status Heed();
  absl::Status SaveAtTheEnd();
  absl::Status GatherModel(absl::Status& written);
  absl::Status WriteModel(const ParameterSet& parameters);
  // A failure that only this rank knows of.
  absl::Status Own(const absl::Status& status) {
    if (!status.ok()) run_.ranks->Abort(status);
    return status;
  }
  void Enter(const char* phase) const {
    if (options_.on_phase) options_.on_phase(run_.trainer->step(), phase);
  }

  const TrainingRunOptions& options_;
  RunSetup run_;
  double flops_per_token_ = 0;
  StepWishes wishes_;  // of this rank, not yet told
  bool save_at_end_ = true;
  bool diverged_ = false;
  TrainingRunResult result_;
};

absl::Status Run::Prepare() {
  MNEMO_RETURN_IF_ERROR(SetUpRun(options_, run_));
  run_.trainer->OnPhase([this](const char* phase) { Enter(phase); });
  flops_per_token_ = run_.plan.work().model_flops_per_token();
  result_.first_rank = run_.ranks->first();
  result_.first_step = run_.start.step;
  result_.planned_bytes = TensorBytes(run_.plan.memory());
  if (!run_.ranks->first()) return absl::OkStatus();
  result_.run_directory = run_.directory->path();
  result_.model_directory = run_.directory->model_path();
  if (options_.on_start) options_.on_start(run_.data.config, run_.plan, run_.start.step);
  return absl::OkStatus();
}

absl::Status Run::EvaluateAfterStep(v1::StepMetrics& metrics) {
  const int64_t every = run_.data.config.train().evaluate_every(), step = metrics.step();
  const bool due = step == run_.data.config.train().steps() || (every > 0 && step % every == 0);
  if (run_.data.held_out == nullptr || diverged_ || !due) return absl::OkStatus();
  Enter("evaluation");
  const auto begin = std::chrono::steady_clock::now();
  const auto asked_to_stop = [this] {
    Hear();
    return wishes_.stop;
  };
  MNEMO_ASSIGN_OR_RETURN(const std::optional<double> loss,
                         EvaluateHeldOut(*run_.trainer, *run_.data.held_out, asked_to_stop));
  metrics.mutable_seconds()->set_evaluation(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  if (loss.has_value()) {
    metrics.set_evaluation_loss(*loss);
    run_.checkpoints->Evaluated(*loss);
  }
  return absl::OkStatus();
}

void Run::Record(v1::StepMetrics& metrics, bool logged) {
  if (!run_.ranks->first()) return;
  const bool recorded = logged || metrics.has_evaluation_loss() || metrics.skipped();
  run_.checkpoints->Describe(recorded, metrics);
  if (options_.on_step) options_.on_step(metrics);
  if (recorded && options_.on_logged) options_.on_logged(metrics);
  run_.record->Add(metrics, recorded);
}

absl::Status Run::StepOnce() {
  const v1::TrainConfig& train = run_.data.config.train();
  const int64_t step = run_.trainer->step() + 1;
  const bool logged = step == 1 || step == train.steps() || step % train.log_every() == 0;
  v1::StepMetrics metrics;
  const absl::Status status = run_.trainer->Step(metrics, logged);
  diverged_ = !status.ok() && metrics.skipped();
  if (!status.ok() && !diverged_) return status;
  if (run_.ceiling > 0) {
    metrics.set_speed_of_light_share(metrics.tokens_per_second() * flops_per_token_ / run_.ceiling);
  }
  MNEMO_RETURN_IF_ERROR(EvaluateAfterStep(metrics));
  Record(metrics, logged);
  return status;
}

void Run::Hear() {
  if (!options_.wishes) return;
  const StepWishes heard = options_.wishes();
  wishes_.stop = wishes_.stop || heard.stop;
  wishes_.save = wishes_.save || heard.save;
}

// Between two steps: what the ranks were asked for, and what is due.
absl::Status Run::Heed() {
  run_.checkpoints->Poll();
  Hear();
  StepWishes wishes = std::exchange(wishes_, {});
  wishes.save = wishes.save || run_.checkpoints->DueByClock();
  MNEMO_RETURN_IF_ERROR(AgreeOnWishes(*run_.ranks, wishes));
  if (run_.trainer->step() == run_.data.config.train().steps()) return absl::OkStatus();
  result_.stopped = wishes.stop;
  save_at_end_ = !wishes.stop || wishes.save;
  if (wishes.stop || (!wishes.save && !run_.checkpoints->Due())) return absl::OkStatus();
  Enter("checkpoint");
  return run_.checkpoints->Save();
}

absl::Status Run::Loop() {
  const auto begin = std::chrono::steady_clock::now();
  absl::Status status;
  while (status.ok() && !result_.stopped &&
         run_.trainer->step() < run_.data.config.train().steps()) {
    status = StepOnce();
    if (status.ok()) status = Heed();
  }
  result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  result_.steps = run_.trainer->step();
  result_.skipped_steps = run_.trainer->optimizer().counters().skipped;
  result_.peak_bytes = run_.trainer->peak_bytes();
  return status;
}

// A run that was stopped and could not be saved has not ended well.
absl::Status Run::SaveAtTheEnd() {
  Enter("checkpoint");
  if (!save_at_end_) return run_.checkpoints->Wait();
  const absl::Status saved = run_.checkpoints->SaveLast();
  if (saved.ok() || !run_.ranks->status().ok()) return saved;
  if (!result_.stopped) {
    run_.checkpoints->TellFailure(run_.trainer->step(), saved);
    return absl::OkStatus();
  }
  return absl::Status(saved.code(),
                      fmt::format("stopped after step {}, which could not be saved: {}",
                                  run_.trainer->step(), std::string(saved.message())));
}

// The ranks of the first rank's tp axis put together what they hold. `written`: what came of it on
// the first.
absl::Status Run::GatherModel(absl::Status& written) {
  const MeshPosition& place = run_.ranks->position();
  if (place.dp > 0 || place.sp > 0) return absl::OkStatus();
  return Own(AtTheDoor([&] {
    const ParameterSet whole = GatherParameters(run_.trainer->spec(), run_.trainer->parameters());
    if (run_.ranks->first()) written = WriteModel(whole);
    return absl::OkStatus();
  }));
}

absl::Status Run::WriteModel(const ParameterSet& parameters) {
  Enter("model");
  MNEMO_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer,
                         run_.data.training->LoadTokenizer());
  return run_.record->WriteModel(run_.data.config, parameters, *tokenizer);
}

absl::Status Run::Finish(absl::Status status) {
  if (status.ok()) {
    status = SaveAtTheEnd();
  } else {
    run_.checkpoints->Wait().IgnoreError();  // the run has ended with what is worse
  }
  const bool taken = run_.trainer->step() > 0, first = run_.ranks->first();
  // Where ranks failed, the parameters of this one may be between two steps.
  const bool model = taken && !diverged_ && (run_.ranks->alone() || run_.ranks->status().ok());
  absl::Status written;
  if (model) MNEMO_RETURN_IF_ERROR(GatherModel(written));
  if (first) {
    result_.checkpoint = run_.checkpoints->newest();
    result_.failed_saves = run_.checkpoints->failed();
    result_.losses = run_.record->losses();
    if (taken) written.Update(run_.record->WriteLossCurve());
    written.Update(run_.record->Close());
  }
  if (status.ok() || run_.ranks->status().ok()) {
    written = Agree(*run_.ranks, written);
    written.Update(Own(run_.trainer->Drain()));
  }
  if (status.ok()) return written;
  if (!model || !first || !written.ok()) return status;
  return absl::Status(status.code(), fmt::format("{}; the model as of step {} is in {}",
                                                 std::string(status.message()),
                                                 run_.trainer->step(), result_.model_directory));
}

}  // namespace

absl::StatusOr<TrainingRunResult> RunTraining(const TrainingRunOptions& options) {
  Run run(options);
  MNEMO_RETURN_IF_ERROR(run.Prepare());
  MNEMO_RETURN_IF_ERROR(run.Finish(run.Loop()));
  return std::move(run.result());
}

}  // namespace mnemo
