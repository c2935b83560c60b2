#include "src/job/training_run.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "src/ckpt/manifest.h"
#include "src/core/config_difference.h"
#include "src/core/config_text.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/core/thread_pool.h"
#include "src/job/available_memory.h"
#include "src/job/gemm_ceiling.h"
#include "src/job/held_out.h"
#include "src/job/run_checkpoints.h"
#include "src/job/run_record.h"
#include "src/job/run_start.h"
#include "src/job/shard_source.h"
#include "src/job/trainer.h"
#include "src/job/training_checkpoint.h"
#include "src/model/door.h"
#include "src/model/execution.h"
#include "src/model/plan_inputs.h"
#include "src/parallel/plan.h"

namespace mnemo {
namespace {

// One rank's part of a run. What returns a Status here returns it on all ranks:
// either all know of the error, or the ranks have been aborted.
class Run {
 public:
  explicit Run(const TrainingRunOptions& options) : options_(options) {}

  absl::Status Prepare();
  // Steps until the end, a wish to stop or an error.
  absl::Status Loop();
  // Saves and writes what the run leaves behind; of `status`, how the loop
  // ended, or worse.
  absl::Status Finish(absl::Status status);

  TrainingRunResult& result() { return result_; }

 private:
  absl::Status MeetRanks();
  absl::Status CheckSameConfig();
  absl::StatusOr<v1::Plan> MakeRunPlan() const;
  absl::Status CheckMemory() const;
  absl::Status MakeTrainer();
  absl::StatusOr<std::string> OpenDirectory();  // the first rank; where the run begins
  absl::Status Start();
  absl::Status OpenRecord();
  v1::CheckpointManifest AboutCheckpoints() const;
  absl::Status MeasureCeiling();
  absl::Status StepOnce();
  absl::Status EvaluateAfterStep(v1::StepMetrics& metrics);
  absl::Status Record(const v1::StepMetrics& metrics, bool logged);
  void Hear();
  absl::Status Heed();
  absl::Status SaveOnTheWay();
  absl::Status SaveAtTheEnd();
  absl::Status WriteResults(bool model);
  // A failure that only this rank knows of.
  absl::Status Own(const absl::Status& status) {
    if (!status.ok()) ranks_->Abort(status);
    return status;
  }
  void Enter(const char* phase) const {
    if (options_.on_phase) options_.on_phase(trainer_ ? trainer_->step() : 0, phase);
  }

  const TrainingRunOptions& options_;
  std::unique_ptr<Ranks> ranks_;
  int ranks_here_ = 1;  // on this host
  RunData data_;
  v1::Plan plan_;
  std::unique_ptr<ShardSource> source_;
  std::unique_ptr<Trainer> trainer_;
  RunStart start_;
  std::optional<RunDirectory> directory_;  // of the first rank, as is the record
  std::optional<RunRecord> record_;
  std::unique_ptr<RunCheckpoints> checkpoints_;
  double flops_per_token_ = 0, ceiling_ = 0;
  StepWishes wishes_;  // of this rank, not yet told
  bool save_at_end_ = true;
  bool diverged_ = false;
  TrainingRunResult result_;
};

// For the time in which the mesh is not known yet, all ranks are taken for
// replicas.
absl::Status Run::MeetRanks() {
  if (options_.transport == nullptr) {
    ranks_ = Ranks::Alone();
    return absl::OkStatus();
  }
  MNEMO_ASSIGN_OR_RETURN(ranks_,
                         Ranks::Create(*options_.transport, {.dp = options_.transport->size()}));
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, Exchange(*ranks_, HostName()));
  ranks_here_ = static_cast<int>(std::count(hosts.begin(), hosts.end(), HostName()));
  return absl::OkStatus();
}

// The first rank's configuration and data are what counts.
absl::Status Run::CheckSameConfig() {
  const Digest digest = DataDigest(*data_.training);
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> configs,
                         Exchange(*ranks_, data_.config.SerializeAsString()));
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> digests, Exchange(*ranks_, digest.Hex()));
  v1::RunConfig first;
  MNEMO_CHECK(first.ParseFromString(configs[0]));
  absl::Status status;
  if (const auto differences = ConfigDifferences(first, data_.config); !differences.empty()) {
    status = FailedPrecondition(
        "{}: {} is {} on the first rank and {} here; give all ranks the "
        "same configuration",
        options_.config_name, differences[0].path, differences[0].before, differences[0].after);
  } else if (digests[0] != digest.Hex()) {
    status = FailedPrecondition(
        "data.shards hold other text here than on the "
        "first rank; give all hosts the same shards");
  }
  return Agree(*ranks_, status);
}

absl::StatusOr<v1::Plan> Run::MakeRunPlan() const {
  if (options_.plan) return *options_.plan;
  absl::StatusOr<v1::Plan> plan = PlanRun(data_.config, ranks_->size());
  if (plan.ok()) return plan;
  return absl::Status(plan.status().code(), fmt::format("{}: {}", options_.config_name,
                                                        std::string(plan.status().message())));
}

// Of host memory; a device refuses by itself what is too much.
absl::Status Run::CheckMemory() const {
  if (!options_.check_memory || ComputeDevice(data_.config.execution()) != Device()) {
    return absl::OkStatus();
  }
  const std::optional<int64_t> available =
      options_.available_bytes ? options_.available_bytes : AvailableMemory();
  const int64_t needed = plan_.memory().total() * ranks_here_;
  if (!available || needed <= *available) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("{}: needs {} of memory{}, as planned, and {} are available: {}, or try "
                  "it all the same with "
                  "--no-memory-check",
                  options_.config_name, PrintBytes(needed),
                  ranks_here_ > 1 ? fmt::format(" for {} ranks on this host", ranks_here_) : "",
                  PrintBytes(*available), SmallerRunAdvice()));
}

absl::Status Run::MakeTrainer() {
  v1::RunConfig config = data_.config;
  if (config.execution().threads() == 0 && ranks_here_ > 1) {
    config.mutable_execution()->set_threads(std::max(1, ThreadsForThisThread() / ranks_here_));
  }
  const Mesh& mesh = ranks_->mesh();
  MNEMO_ASSIGN_OR_RETURN(
      const ReplicaShare share,
      ShareOfReplica(mesh.dp, config.train().accumulation(), config.train().micro_batches()));
  const MeshPosition& place = ranks_->position();
  MNEMO_ASSIGN_OR_RETURN(
      source_, ShardSource::Create(config, MakeSpec(config.model()), data_.training,
                                   {place.dp, mesh.dp, place.sp, mesh.sp, share.accumulation,
                                    share.micro_batches}));
  MNEMO_ASSIGN_OR_RETURN(trainer_, Trainer::Create(config, *source_, *ranks_));
  trainer_->OnPhase([this](const char* phase) { Enter(phase); });
  return absl::OkStatus();
}

absl::StatusOr<std::string> Run::OpenDirectory() {
  if (!ranks_->first()) return std::string();
  MNEMO_ASSIGN_OR_RETURN(directory_, RunDirectory::Open(*options_.fs, options_.run_directory));
  MNEMO_ASSIGN_OR_RETURN(start_, DecideStart(*options_.fs, *directory_,
                                             {data_.config, DataDigest(*data_.training),
                                              options_.overwrite, options_.resume_step}));
  return fmt::format("{} {}", start_.step, start_.checkpoint);
}

// From first values or from the checkpoint that the first rank has chosen.
absl::Status Run::Start() {
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> starts, Exchange(*ranks_, OpenDirectory()));
  start_.step = std::atoll(starts[0].c_str());
  start_.checkpoint = starts[0].substr(starts[0].find(' ') + 1);
  if (start_.checkpoint.empty()) return absl::OkStatus();
  Enter("restore");
  MNEMO_RETURN_IF_ERROR(RestoreTraining(*options_.fs, start_.checkpoint, *trainer_));
  if (ranks_->first()) LogInfo("going on after step {}, from {}", start_.step, start_.checkpoint);
  return absl::OkStatus();
}

v1::CheckpointManifest Run::AboutCheckpoints() const {
  v1::CheckpointManifest about;
  about.set_writer(options_.writer);
  *about.mutable_config() = data_.config;
  *about.mutable_plan() = plan_;
  about.mutable_training()->set_data_digest(ToBytes(DataDigest(*data_.training)));
  about.mutable_training()->set_tokens_seen(start_.tokens_seen);
  return about;
}

absl::Status Run::OpenRecord() {
  RunCheckpoints::Options checkpoints;
  checkpoints.fs = options_.fs;
  checkpoints.directory = options_.run_directory + "/checkpoints";
  checkpoints.start = start_.step;
  checkpoints.on_save = options_.on_save;
  if (ranks_->first()) {
    MNEMO_ASSIGN_OR_RETURN(record_,
                           RunRecord::Open(*options_.fs, *directory_, start_, data_.config));
    MNEMO_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer,
                           data_.training->LoadTokenizer());
    const ShardTokenizer description = tokenizer->description();
    checkpoints.about = AboutCheckpoints();
    v1::CheckpointTokenizer& saved = *checkpoints.about.mutable_tokenizer();
    saved.set_kind(description.kind);
    saved.set_hash(description.hash.Hex());
    saved.set_vocabulary(description.vocabulary);
    saved.set_separator(description.separator);
    saved.set_model(tokenizer->model());
    result_.run_directory = directory_->path();
    result_.model_directory = directory_->model_path();
    LogInfo("effective configuration, also in {}:\n{}", directory_->config_path(),
            PrintConfigText(data_.config));
  }
  checkpoints_ =
      std::make_unique<RunCheckpoints>(std::move(checkpoints), *trainer_, source_->stream());
  return absl::OkStatus();
}

// All ranks at once, since they share hosts.
absl::Status Run::MeasureCeiling() {
  const v1::ExecutionConfig& execution = data_.config.execution();
  double sum[] = {MeasureGemmCeiling(ComputeDType(execution), ComputeDevice(execution))};
  MNEMO_RETURN_IF_ERROR(Own(ranks_->world().AllReduceSum(std::span<double>(sum))));
  ceiling_ = sum[0];
  flops_per_token_ = plan_.work().model_flops_per_token();
  if (ranks_->first()) {
    LogInfo(
        "matrix products reach {:.1f} GFLOP/s here; {:.2f} MFLOP a token: "
        "at most {:.0f} tokens/s",
        ceiling_ * 1e-9, flops_per_token_ * 1e-6, ceiling_ / flops_per_token_);
  }
  return absl::OkStatus();
}

absl::Status Run::Prepare() {
  MNEMO_RETURN_IF_ERROR(MeetRanks());
  absl::StatusOr<RunData> data = OpenRunData(options_.written, options_.config_name);
  MNEMO_RETURN_IF_ERROR(Agree(*ranks_, data.status()));
  data_ = *std::move(data);
  MNEMO_RETURN_IF_ERROR(CheckSameConfig());
  absl::StatusOr<v1::Plan> plan = MakeRunPlan();
  MNEMO_RETURN_IF_ERROR(Agree(*ranks_, plan.status()));
  plan_ = *std::move(plan);
  if (options_.transport != nullptr) {
    MNEMO_ASSIGN_OR_RETURN(ranks_, Ranks::Create(*options_.transport, MeshOf(plan_)));
  }
  result_.first_rank = ranks_->first();
  MNEMO_RETURN_IF_ERROR(Agree(*ranks_, CheckMemory()));
  MNEMO_RETURN_IF_ERROR(Agree(*ranks_, MakeTrainer()));
  MNEMO_RETURN_IF_ERROR(Start());
  MNEMO_RETURN_IF_ERROR(Agree(*ranks_, OpenRecord()));
  MNEMO_RETURN_IF_ERROR(MeasureCeiling());
  result_.first_step = start_.step;
  result_.planned_bytes = TensorBytes(plan_.memory());
  if (ranks_->first() && options_.on_start) options_.on_start(data_.config, plan_, start_.step);
  return absl::OkStatus();
}

absl::Status Run::EvaluateAfterStep(v1::StepMetrics& metrics) {
  const int64_t every = data_.config.train().evaluate_every(), step = metrics.step();
  const bool due = step == data_.config.train().steps() || (every > 0 && step % every == 0);
  if (data_.held_out == nullptr || diverged_ || !due) return absl::OkStatus();
  Enter("evaluation");
  const auto begin = std::chrono::steady_clock::now();
  const auto asked_to_stop = [this] {
    Hear();
    return wishes_.stop;
  };
  MNEMO_ASSIGN_OR_RETURN(const std::optional<double> loss,
                         EvaluateHeldOut(*trainer_, *data_.held_out, asked_to_stop));
  metrics.mutable_seconds()->set_evaluation(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  if (loss.has_value()) metrics.set_evaluation_loss(*loss);
  return absl::OkStatus();
}

absl::Status Run::Record(const v1::StepMetrics& metrics, bool logged) {
  if (!ranks_->first()) return absl::OkStatus();
  const bool recorded = logged || metrics.has_evaluation_loss() || metrics.skipped();
  if (options_.on_step) options_.on_step(metrics);
  if (recorded && options_.on_logged) options_.on_logged(metrics);
  return Own(record_->Add(metrics, recorded));
}

absl::Status Run::StepOnce() {
  const v1::TrainConfig& train = data_.config.train();
  const int64_t step = trainer_->step() + 1;
  const bool logged = step == 1 || step == train.steps() || step % train.log_every() == 0;
  v1::StepMetrics metrics;
  const absl::Status status = trainer_->Step(metrics, logged);
  diverged_ = !status.ok() && metrics.skipped();
  if (!status.ok() && !diverged_) return status;
  metrics.set_speed_of_light_share(metrics.tokens_per_second() * flops_per_token_ / ceiling_);
  MNEMO_RETURN_IF_ERROR(EvaluateAfterStep(metrics));
  const absl::Status recorded = Record(metrics, logged);
  return status.ok() ? recorded : status;
}

void Run::Hear() {
  if (!options_.wishes) return;
  const StepWishes heard = options_.wishes();
  wishes_.stop = wishes_.stop || heard.stop;
  wishes_.save = wishes_.save || heard.save;
}

// Between two steps: what the ranks were asked for, and what is due.
absl::Status Run::Heed() {
  Hear();
  StepWishes wishes = std::exchange(wishes_, {});
  MNEMO_RETURN_IF_ERROR(AgreeOnWishes(*ranks_, wishes));
  if (trainer_->step() == data_.config.train().steps()) return absl::OkStatus();
  result_.stopped = wishes.stop;
  save_at_end_ = !wishes.stop || wishes.save;
  if (!wishes.stop && (wishes.save || checkpoints_->Due())) return SaveOnTheWay();
  return absl::OkStatus();
}

absl::Status Run::SaveOnTheWay() {
  Enter("checkpoint");
  if (record_) MNEMO_RETURN_IF_ERROR(Own(record_->Sync()));
  const absl::Status saved = checkpoints_->Save();
  if (saved.ok() || !ranks_->status().ok()) return saved;
  if (ranks_->first()) {
    LogError("STEP {} IS NOT SAVED: {}; training goes on, {}", trainer_->step(),
             std::string(saved.message()),
             checkpoints_->saved_step() > 0
                 ? fmt::format("and the checkpoint of step {} is whole", checkpoints_->saved_step())
                 : "without any checkpoint yet");
  }
  return absl::OkStatus();
}

absl::Status Run::Loop() {
  const auto begin = std::chrono::steady_clock::now();
  absl::Status status;
  while (status.ok() && !result_.stopped && trainer_->step() < data_.config.train().steps()) {
    status = StepOnce();
    if (status.ok()) status = Heed();
  }
  result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  result_.steps = trainer_->step();
  result_.skipped_steps = trainer_->optimizer().counters().skipped;
  result_.peak_bytes = trainer_->peak_bytes();
  return status;
}

// A run that was stopped and could not be saved has not ended well.
absl::Status Run::SaveAtTheEnd() {
  if (!save_at_end_) return absl::OkStatus();
  if (!result_.stopped) return SaveOnTheWay();
  Enter("checkpoint");
  const absl::Status saved = checkpoints_->Save();
  if (saved.ok() || !ranks_->status().ok()) return saved;
  return absl::Status(saved.code(),
                      fmt::format("stopped after step {}, which could not be saved: {}",
                                  trainer_->step(), std::string(saved.message())));
}

absl::Status Run::WriteResults(bool model) {
  if (!record_ || trainer_->step() == 0) return record_ ? record_->Close() : absl::OkStatus();
  Enter("model");
  absl::Status status;
  if (model) {
    MNEMO_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer,
                           data_.training->LoadTokenizer());
    status = record_->WriteModel(data_.config, trainer_->parameters(), *tokenizer);
  }
  status.Update(record_->WriteLossCurve());
  status.Update(record_->Close());
  return status;
}

absl::Status Run::Finish(absl::Status status) {
  if (status.ok()) status = SaveAtTheEnd();
  if (ranks_->first()) {
    result_.checkpoint = checkpoints_->newest();
    result_.losses = record_->losses();
  }
  // Where ranks failed, the parameters of this one may be between two steps.
  const bool model = !diverged_ && (ranks_->alone() || ranks_->status().ok());
  absl::Status written = WriteResults(model);
  if (status.ok()) {
    MNEMO_RETURN_IF_ERROR(Agree(*ranks_, written));
    return Own(trainer_->Drain());
  }
  if (!model || !written.ok() || trainer_->step() == 0) return status;
  return absl::Status(status.code(), fmt::format("{}; the model as of step {} is in {}",
                                                 std::string(status.message()), trainer_->step(),
                                                 result_.model_directory));
}

}  // namespace

absl::StatusOr<TrainingRunResult> RunTraining(const TrainingRunOptions& options) {
  Run run(options);
  MNEMO_RETURN_IF_ERROR(run.Prepare());
  MNEMO_RETURN_IF_ERROR(run.Finish(run.Loop()));
  return std::move(run.result());
}

}  // namespace mnemo
