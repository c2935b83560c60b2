#include "src/job/run_setup.h"

#include <algorithm>
#include <cstdlib>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/manifest.h"
#include "src/core/config_difference.h"
#include "src/core/config_text.h"
#include "src/core/host.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/core/thread_pool.h"
#include "src/job/agreement.h"
#include "src/job/gemm_ceiling.h"
#include "src/job/initial_weights.h"
#include "src/job/memory_check.h"
#include "src/job/training_checkpoint.h"
#include "src/model/door.h"
#include "src/model/execution.h"
#include "src/model/plan_inputs.h"
#include "src/parallel/plan.h"

namespace mnemo {
namespace {

// One rank's part of it.
class SetUp {
 public:
  SetUp(const TrainingRunOptions& options, RunSetup& run) : options_(options), run_(run) {}

  absl::Status All();

 private:
  absl::Status MeetRanks();
  absl::Status CheckSameConfig();
  absl::Status MakeRunPlan();
  absl::Status FindMemory() const;
  absl::Status MakeTrainer();
  // The first rank's: where the run begins. `step`: see StartRequest.
  absl::StatusOr<std::string> Decide(const std::optional<int64_t>& step);
  absl::Status ChooseStart(const std::optional<int64_t>& step);
  absl::Status BeginAnew();
  absl::StatusOr<std::string> PassOver(const absl::Status& damage);
  absl::Status Start();
  absl::Status OpenRecord();
  v1::CheckpointManifest AboutCheckpoints() const;
  absl::Status MeasureCeiling();

  const TrainingRunOptions& options_;
  RunSetup& run_;
};

// For the time in which the mesh is not known yet, all ranks are taken for
// replicas.
absl::Status SetUp::MeetRanks() {
  if (options_.transport == nullptr) {
    run_.ranks = Ranks::Alone();
    return absl::OkStatus();
  }
  MNEMO_ASSIGN_OR_RETURN(run_.ranks,
                         Ranks::Create(*options_.transport, {.dp = options_.transport->size()},
                                       MessageTimeout(options_.written)));
  const std::string here = HostIdentity();
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> hosts, Exchange(*run_.ranks, here));
  run_.ranks_here = static_cast<int>(std::count(hosts.begin(), hosts.end(), here));
  return absl::OkStatus();
}

// The first rank's configuration and data are what counts.
absl::Status SetUp::CheckSameConfig() {
  const Digest digest = DataDigest(*run_.data.training);
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> configs,
                         Exchange(*run_.ranks, run_.data.config.SerializeAsString()));
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> digests,
                         Exchange(*run_.ranks, digest.Hex()));
  v1::RunConfig first;
  MNEMO_CHECK(first.ParseFromString(configs[0]));
  absl::Status status;
  if (const auto differences = ConfigDifferences(first, run_.data.config); !differences.empty()) {
    status = FailedPrecondition(
        "{}: {} is {} on the first rank and {} here; give all ranks the same configuration",
        options_.config_name, differences[0].path, differences[0].before, differences[0].after);
  } else if (digests[0] != digest.Hex()) {
    status = FailedPrecondition(
        "data.shards hold other text here than on the first rank; give all hosts the same shards");
  }
  return Agree(*run_.ranks, status);
}

// The coordinator's, or the first rank's, for which the others wait: planning takes cores.
absl::Status SetUp::MakeRunPlan() {
  if (options_.plan) {
    run_.plan = *options_.plan;
    return absl::OkStatus();
  }
  const auto plan_first = [&]() -> absl::StatusOr<std::string> {
    if (!run_.ranks->first()) return std::string();
    const absl::StatusOr<v1::Plan> plan = PlanRun(run_.data.config, run_.ranks->size());
    if (plan.ok()) return plan->SerializeAsString();
    return absl::Status(plan.status().code(), fmt::format("{}: {}", options_.config_name,
                                                          std::string(plan.status().message())));
  };
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> plans, Exchange(*run_.ranks, plan_first()));
  MNEMO_CHECK(run_.plan.ParseFromString(plans[0]));
  return absl::OkStatus();
}

// Also takes what a device of its own will need.
absl::Status SetUp::FindMemory() const {
  if (options_.check_memory) {
    MNEMO_RETURN_IF_ERROR(CheckMemory(run_.data.config, run_.plan,
                                      {.config_name = options_.config_name,
                                       .ranks = run_.ranks->size(),
                                       .ranks_here = run_.ranks_here,
                                       .available = options_.available_bytes}));
  }
  return ReserveMemory(options_.config_name, run_.data.config, run_.plan);
}

absl::Status SetUp::MakeTrainer() {
  v1::RunConfig config = run_.data.config;
  if (config.execution().threads() == 0 && run_.ranks_here > 1) {
    config.mutable_execution()->set_threads(std::max(1, ThreadsForThisThread() / run_.ranks_here));
  }
  MNEMO_ASSIGN_OR_RETURN(const StepShare share, ShareOfRank(*run_.ranks, config.train()));
  MNEMO_ASSIGN_OR_RETURN(run_.source, ShardSource::Create(config, MakeSpec(config.model()),
                                                          run_.data.training, share));
  MNEMO_ASSIGN_OR_RETURN(run_.trainer, Trainer::Create(config, *run_.source, *run_.ranks));
  return absl::OkStatus();
}

absl::StatusOr<std::string> SetUp::Decide(const std::optional<int64_t>& step) {
  if (!run_.ranks->first()) return std::string();
  if (!run_.directory) {
    MNEMO_ASSIGN_OR_RETURN(run_.directory,
                           RunDirectory::Open(*options_.fs, options_.run_directory));
  }
  const auto find_weights = [&] {
    return FindInitialWeights(*options_.fs, run_.data.config, run_.data.training->tokenizer(),
                              run_.directory->path());
  };
  std::string weights;
  if (options_.overwrite) {  // before a run is discarded for them
    MNEMO_ASSIGN_OR_RETURN(weights, find_weights());
    MNEMO_RETURN_IF_ERROR(VerifyInitialWeights(*options_.fs, weights, run_.data.config.model()));
  }
  MNEMO_ASSIGN_OR_RETURN(run_.start, DecideStart(*options_.fs, *run_.directory,
                                                 {run_.data.config, DataDigest(*run_.data.training),
                                                  options_.overwrite, step, options_.strict}));
  if (!run_.start.checkpoint.empty()) {
    return fmt::format("{} checkpoint {}", run_.start.step, run_.start.checkpoint);
  }
  if (!options_.overwrite) {
    MNEMO_ASSIGN_OR_RETURN(weights, find_weights());
  }
  run_.start.initial_weights = weights;
  return fmt::format("{} weights {}", run_.start.step, run_.start.initial_weights);
}

absl::Status SetUp::ChooseStart(const std::optional<int64_t>& step) {
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> starts,
                         Exchange(*run_.ranks, Decide(step)));
  if (run_.ranks->first()) return absl::OkStatus();
  const std::vector<std::string> start = absl::StrSplit(starts[0], absl::MaxSplits(' ', 2));
  run_.start.step = std::atoll(start[0].c_str());
  (start[1] == "checkpoint" ? run_.start.checkpoint : run_.start.initial_weights) = start[2];
  return absl::OkStatus();
}

// What the trainer was made with is random.
absl::Status SetUp::BeginAnew() {
  const std::string& weights = run_.start.initial_weights;
  if (weights.empty()) return absl::OkStatus();
  if (options_.on_phase) options_.on_phase(0, "initial weights");
  MNEMO_RETURN_IF_ERROR(ReadInitialWeights(*options_.fs, weights, *run_.trainer));
  if (run_.ranks->first()) LogInfo("beginning with the weights of {}", weights);
  return absl::OkStatus();
}

// What the first rank does about a checkpoint in which any rank has found damage.
absl::StatusOr<std::string> SetUp::PassOver(const absl::Status& damage) {
  if (!run_.ranks->first()) return std::string();
  const std::string why(damage.message());
  if (options_.strict) {
    return DataLoss("{}; without --strict the run goes on from the newest whole checkpoint", why);
  }
  // One host's memory, cable or stale view must not take good checkpoints from all.
  const std::string& checkpoint = run_.start.checkpoint;
  const auto seen = VerifyCheckpoint(*options_.fs, checkpoint);
  if (!seen.ok() && !absl::IsDataLoss(seen.status()) && !absl::IsNotFound(seen.status())) {
    return seen.status();
  }
  if (seen.ok() && seen->problems.empty()) {
    return FailedPrecondition(
        "{}; but here the first rank finds no fault in {}, so nothing is done about it: see to "
        "what "
        "that host reads, and start again",
        why, checkpoint);
  }
  MNEMO_ASSIGN_OR_RETURN(const std::string aside, SetAside(*options_.fs, checkpoint));
  LogWarning("DAMAGED CHECKPOINT: {}; it is called {} from now on, and an older one is used", why,
             aside);
  return std::string();
}

// With first weights, or from the newest checkpoint, as the first rank sees it, in which no rank
// finds damage.
absl::Status SetUp::Start() {
  std::optional<int64_t> step = options_.resume_step;
  for (bool passed_over = false;; passed_over = true) {
    MNEMO_RETURN_IF_ERROR(ChooseStart(step));
    if (run_.start.checkpoint.empty()) return BeginAnew();
    if (options_.on_phase) options_.on_phase(0, "restore");
    const absl::Status restored =
        RestoreTraining(*options_.fs, run_.start.checkpoint, *run_.trainer);
    if (!restored.ok()) {
      if (!absl::IsDataLoss(restored) || !run_.ranks->status().ok()) return restored;
      MNEMO_RETURN_IF_ERROR(Exchange(*run_.ranks, PassOver(restored)).status());
      step.reset();
      continue;
    }
    if (!run_.ranks->first()) return absl::OkStatus();
    LogInfo("going on after step {}, from {}", run_.start.step, run_.start.checkpoint);
    if (passed_over && options_.on_save) {
      v1::CheckpointReport report;
      report.set_step(run_.start.step);
      report.set_path(run_.start.checkpoint);
      options_.on_save(report);
    }
    return absl::OkStatus();
  }
}

v1::CheckpointManifest SetUp::AboutCheckpoints() const {
  v1::CheckpointManifest about;
  about.set_writer(options_.writer);
  *about.mutable_config() = run_.data.config;
  *about.mutable_plan() = run_.plan;
  about.mutable_training()->set_data_digest(ToBytes(DataDigest(*run_.data.training)));
  about.mutable_training()->set_tokens_seen(run_.start.tokens_seen);
  about.mutable_training()->set_initial_weights(run_.start.initial_weights);
  return about;
}

absl::Status SetUp::OpenRecord() {
  RunCheckpoints::Options checkpoints;
  checkpoints.fs = options_.fs;
  checkpoints.directory = options_.run_directory + "/checkpoints";
  checkpoints.start = run_.start.step;
  checkpoints.before_save = [record = &run_.record] { (*record)->Sync(); };
  checkpoints.on_save = options_.on_save;
  checkpoints.valid_targets = [&stream = run_.source->stream()](int64_t step) {
    return stream.ValidTargets(step);
  };
  if (run_.ranks->first()) {
    MNEMO_ASSIGN_OR_RETURN(
        run_.record, RunRecord::Open(*options_.fs, *run_.directory, run_.start, run_.data.config));
    MNEMO_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer,
                           run_.data.training->LoadTokenizer());
    const ShardTokenizer description = tokenizer->description();
    checkpoints.about = AboutCheckpoints();
    v1::CheckpointTokenizer& saved = *checkpoints.about.mutable_tokenizer();
    saved.set_kind(description.kind);
    saved.set_hash(description.hash.Hex());
    saved.set_vocabulary(description.vocabulary);
    saved.set_separator(description.separator);
    saved.set_model(tokenizer->model());
    LogInfo("effective configuration, also in {}:\n{}", run_.directory->config_path(),
            PrintConfigText(run_.data.config));
  }
  run_.checkpoints = std::make_unique<RunCheckpoints>(std::move(checkpoints), *run_.trainer);
  return run_.checkpoints->Reserve();
}

// All ranks at once, since they share hosts.
absl::Status SetUp::MeasureCeiling() {
  if (!options_.measure_machine) return absl::OkStatus();
  const v1::ExecutionConfig& execution = run_.data.config.execution();
  double sum[] = {MeasureGemmCeiling(ComputeDType(execution), ComputeDevice(execution))};
  const absl::Status summed = run_.ranks->world().AllReduceSum(std::span<double>(sum));
  if (!summed.ok()) {
    run_.ranks->Abort(summed);
    return summed;
  }
  run_.ceiling = sum[0];
  const double flops = run_.plan.work().model_flops_per_token();
  if (run_.ranks->first()) {
    LogInfo(
        "matrix products reach {:.1f} GFLOP/s here; {:.2f} MFLOP a token: at most {:.0f} tokens/s",
        run_.ceiling * 1e-9, flops * 1e-6, run_.ceiling / flops);
  }
  return absl::OkStatus();
}

absl::Status SetUp::All() {
  MNEMO_RETURN_IF_ERROR(MeetRanks());
  absl::StatusOr<RunData> data = OpenRunData(options_.written, options_.config_name);
  MNEMO_RETURN_IF_ERROR(Agree(*run_.ranks, data.status()));
  run_.data = *std::move(data);
  MNEMO_RETURN_IF_ERROR(CheckSameConfig());
  MNEMO_RETURN_IF_ERROR(MakeRunPlan());
  if (options_.transport != nullptr) {
    MNEMO_ASSIGN_OR_RETURN(run_.ranks, Ranks::Create(*options_.transport, MeshOf(run_.plan),
                                                     MessageTimeout(run_.data.config)));
  }
  MNEMO_RETURN_IF_ERROR(Agree(*run_.ranks, FindMemory()));
  MNEMO_RETURN_IF_ERROR(Agree(*run_.ranks, MakeTrainer()));
  MNEMO_RETURN_IF_ERROR(Start());
  MNEMO_RETURN_IF_ERROR(Agree(*run_.ranks, OpenRecord()));
  return MeasureCeiling();
}

}  // namespace

absl::Status SetUpRun(const TrainingRunOptions& options, RunSetup& setup) {
  return SetUp(options, setup).All();
}

}  // namespace mnemo
