#include "src/job/training_run.h"

#include <chrono>
#include <filesystem>
#include <optional>

#include "src/core/config_text.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/available_memory.h"
#include "src/job/gemm_ceiling.h"
#include "src/job/metrics.h"
#include "src/job/shard_source.h"
#include "src/model/config_check.h"
#include "src/model/door.h"
#include "src/model/evaluator.h"
#include "src/model/execution.h"
#include "src/model/plan_inputs.h"
#include "src/model/saved_model.h"
#include "src/parallel/plan.h"

namespace mnemo {
namespace {

absl::StatusOr<std::shared_ptr<const TokenSet>> OpenShards(
    const google::protobuf::RepeatedPtrField<std::string>& paths, ShardRole role) {
  return TokenSet::Open({paths.begin(), paths.end()}, role);
}

class Run {
 public:
  explicit Run(const TrainingRunOptions& options) : options_(options) {}

  absl::Status Prepare();
  // Steps until the end, a request to stop or an error.
  absl::Status Loop();
  absl::Status WriteModel();
  absl::Status WriteLossCurve();
  absl::Status CloseMetrics() { return metrics_->Close(); }

  // Whether it ended because steps stayed non-finite.
  bool diverged() const { return diverged_; }
  const Trainer& trainer() const { return *trainer_; }
  TrainingRunResult& result() { return result_; }

 private:
  absl::Status OpenData();
  absl::Status CheckMemory(const v1::Plan& plan) const;
  absl::Status StepOnce();
  bool EvaluateAfter(int64_t step) const;
  // Null if a request to stop came first.
  absl::StatusOr<std::optional<double>> EvaluateHeldOut();

  const TrainingRunOptions& options_;
  v1::RunConfig config_;
  std::shared_ptr<const TokenSet> training_;
  std::unique_ptr<EvaluationStream> held_out_;  // null: none given
  std::unique_ptr<ShardSource> source_;
  std::unique_ptr<Trainer> trainer_;
  std::optional<RunDirectory> directory_;
  std::optional<MetricsWriter> metrics_;
  double flops_per_token_ = 0, ceiling_ = 0;
  bool diverged_ = false;
  TrainingRunResult result_;
};

absl::Status Run::OpenData() {
  if (options_.written.data().shards().empty()) {
    return InvalidArgument(
        "{}: data.shards is empty: name token shards with --shards (made by `mnemo data prepare`)",
        options_.config_name);
  }
  MNEMO_ASSIGN_OR_RETURN(training_,
                         OpenShards(options_.written.data().shards(), ShardRole::kTraining));
  MNEMO_ASSIGN_OR_RETURN(
      config_, ResolveConfig(options_.written, options_.config_name, training_->tokenizer()));
  const v1::ParallelConfig& parallel = config_.parallel();
  if (parallel.dp() > 1 || parallel.sp() > 1 || parallel.tp() > 1) {
    return InvalidArgument(
        "{}: parallel.dp = {}, sp = {}, tp = {}: this run has one rank; remove them",
        options_.config_name, parallel.dp(), parallel.sp(), parallel.tp());
  }
  const ModelSpec spec = MakeSpec(config_.model());
  MNEMO_ASSIGN_OR_RETURN(source_, ShardSource::Create(config_, spec, training_));
  if (config_.data().evaluation().empty()) return absl::OkStatus();
  MNEMO_ASSIGN_OR_RETURN(auto set, OpenShards(config_.data().evaluation(), ShardRole::kEvaluation));
  if (set->tokenizer() != training_->tokenizer()) {
    return InvalidArgument(
        "{}: data.evaluation was made with another tokenizer than data.shards; prepare both with "
        "the same one",
        options_.config_name);
  }
  if (const std::string shared = FirstSharedShard(training_->files(), set->files());
      !shared.empty()) {
    return InvalidArgument(
        "{}: data.evaluation takes {}, which data.shards trains on: its loss would not be "
        "held-out; "
        "prepare the text with `mnemo data prepare --holdout 0.05`, which writes eval-*.h5 beside "
        "train-*.h5, or name files with other text (--eval-shards)",
        options_.config_name, shared);
  }
  MNEMO_ASSIGN_OR_RETURN(auto stream, OpenTokenStream(config_.data(), spec, std::move(set)));
  MNEMO_ASSIGN_OR_RETURN(
      held_out_, EvaluationStream::Create(std::move(stream), config_.train().sequence_length()));
  return absl::OkStatus();
}

// Of host memory; a device refuses by itself what is too much.
absl::Status Run::CheckMemory(const v1::Plan& plan) const {
  if (!options_.check_memory || ComputeDevice(config_.execution()) != Device()) {
    return absl::OkStatus();
  }
  const std::optional<int64_t> available =
      options_.available_bytes ? options_.available_bytes : AvailableMemory();
  if (!available || plan.memory().total() <= *available) return absl::OkStatus();
  return absl::ResourceExhaustedError(fmt::format(
      "{}: needs {} of memory, as planned, and {} are available: {}, or try it all the same with "
      "--no-memory-check",
      options_.config_name, PrintBytes(plan.memory().total()), PrintBytes(*available),
      SmallerRunAdvice()));
}

absl::Status Run::Prepare() {
  MNEMO_RETURN_IF_ERROR(OpenData());
  MNEMO_ASSIGN_OR_RETURN(const v1::Plan plan, PlanRun(config_));
  MNEMO_RETURN_IF_ERROR(CheckMemory(plan));
  const std::string text = PrintConfigText(config_);
  MNEMO_ASSIGN_OR_RETURN(directory_, RunDirectory::Create(*options_.fs, options_.run_directory,
                                                          text, options_.overwrite));
  MNEMO_ASSIGN_OR_RETURN(metrics_, MetricsWriter::Create(*options_.fs, directory_->metrics_path()));
  LogInfo("effective configuration, also in {}:\n{}", directory_->config_path(), text);
  MNEMO_ASSIGN_OR_RETURN(trainer_, Trainer::Create(config_, *source_));
  flops_per_token_ = plan.work().model_flops_per_token();
  ceiling_ =
      MeasureGemmCeiling(ComputeDType(config_.execution()), ComputeDevice(config_.execution()));
  LogInfo(
      "matrix products reach {:.1f} GFLOP/s here; {:.2f} MFLOP a token: at most {:.0f} tokens/s",
      ceiling_ * 1e-9, flops_per_token_ * 1e-6, ceiling_ / flops_per_token_);
  result_.run_directory = directory_->path();
  result_.losses.title = std::filesystem::path(options_.run_directory).filename().string();
  result_.model_directory = directory_->model_path();
  result_.planned_bytes = plan.memory().total() - plan.memory().process();
  if (options_.on_start) options_.on_start(config_, plan);
  return absl::OkStatus();
}

bool Run::EvaluateAfter(int64_t step) const {
  if (held_out_ == nullptr) return false;
  const int64_t every = config_.train().evaluate_every();
  return step == config_.train().steps() || (every > 0 && step % every == 0);
}

absl::StatusOr<std::optional<double>> Run::EvaluateHeldOut() {
  EvaluationOptions options;
  options.slice = config_.train().slice();
  options.max_positions = config_.train().evaluation_tokens();
  options.vocabulary_tile = config_.train().vocabulary_tile();
  const absl::StatusOr<EvaluationResult> result = Evaluate(
      trainer_->spec(), trainer_->parameters(), *held_out_, options, [this](const EvaluatedSlice&) {
        result_.stopped = options_.should_stop && options_.should_stop();
        return result_.stopped ? absl::CancelledError() : absl::OkStatus();
      });
  if (result_.stopped) return std::nullopt;
  MNEMO_RETURN_IF_ERROR(result.status());
  return result->loss();
}

absl::Status Run::StepOnce() {
  const int64_t step = trainer_->step() + 1, last = config_.train().steps();
  const bool logged = step == 1 || step == last || step % config_.train().log_every() == 0;
  v1::StepMetrics metrics;
  absl::Status status = trainer_->Step(metrics, logged);
  diverged_ = !status.ok() && metrics.skipped();
  if (!status.ok() && !diverged_) return status;
  metrics.set_speed_of_light_share(metrics.tokens_per_second() * flops_per_token_ / ceiling_);
  if (!metrics.skipped()) result_.losses.train.push_back({step, metrics.loss()});
  if (EvaluateAfter(step) && !diverged_) {
    const auto begin = std::chrono::steady_clock::now();
    MNEMO_ASSIGN_OR_RETURN(const std::optional<double> loss, EvaluateHeldOut());
    metrics.mutable_seconds()->set_evaluation(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    if (loss.has_value()) {
      metrics.set_evaluation_loss(*loss);
      result_.losses.held_out.push_back({step, *loss});
    }
  }
  if (options_.on_step) options_.on_step(metrics);
  if (logged || metrics.has_evaluation_loss() || metrics.skipped()) {
    status.Update(metrics_->Write(metrics));
  }
  return status;
}

absl::Status Run::Loop() {
  const auto begin = std::chrono::steady_clock::now();
  absl::Status status;
  while (status.ok() && !result_.stopped && trainer_->step() < config_.train().steps()) {
    status = StepOnce();
    result_.stopped = result_.stopped || (options_.should_stop && options_.should_stop());
  }
  result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  result_.steps = trainer_->step();
  result_.skipped_steps = trainer_->optimizer().counters().skipped;
  result_.peak_bytes = trainer_->peak_bytes();
  return status;
}

absl::Status Run::WriteModel() {
  MNEMO_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, training_->LoadTokenizer());
  return SaveModel(*options_.fs, directory_->model_path(), config_, trainer_->parameters(),
                   *tokenizer);
}

absl::Status Run::WriteLossCurve() {
  return WriteFileAtomically(*options_.fs, directory_->loss_curve_path(),
                             LossCurveSvg(result_.losses));
}

// The run's error, with where its model is if that could be written; else the error of writing it.
absl::Status WithModel(const absl::Status& run, const absl::Status& written, int64_t steps,
                       const TrainingRunResult& result) {
  if (run.ok() || !written.ok()) return run.ok() ? written : run;
  return absl::Status(
      run.code(), fmt::format("{}; the model as of step {} is in {}", std::string(run.message()),
                              steps, result.model_directory));
}

}  // namespace

absl::StatusOr<v1::RunConfig> ResolveConfig(const v1::RunConfig& written, const std::string& name,
                                            const ShardTokenizer& tokenizer) {
  MNEMO_ASSIGN_OR_RETURN(v1::RunConfig config, EffectiveConfig(written, name));
  if (config.model().vocabulary() == 0) {
    config.mutable_model()->set_vocabulary(static_cast<int32_t>(tokenizer.vocabulary));
  }
  if (config.model().vocabulary() < tokenizer.vocabulary) {
    return InvalidArgument(
        "{}: model.vocabulary = {} but the shards' {} tokenizer has {}; leave it out to take the "
        "tokenizer's",
        name, config.model().vocabulary(), tokenizer.kind, tokenizer.vocabulary);
  }
  return config;
}

absl::StatusOr<TrainingRunResult> RunTraining(const TrainingRunOptions& options) {
  Run run(options);
  MNEMO_RETURN_IF_ERROR(run.Prepare());
  absl::Status status = run.Loop();
  if (const int64_t steps = run.trainer().step(); steps > 0) {
    if (!run.diverged()) status = WithModel(status, run.WriteModel(), steps, run.result());
    status.Update(run.WriteLossCurve());
  }
  status.Update(run.CloseMetrics());
  MNEMO_RETURN_IF_ERROR(status);
  return std::move(run.result());
}

}  // namespace mnemo
