#include "src/job/save_bench.h"

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "src/ckpt/checkpoint_reader.h"
#include "src/core/status.h"
#include "src/job/memory_check.h"
#include "src/job/random_tokens.h"
#include "src/job/run_checkpoints.h"
#include "src/job/timing.h"
#include "src/job/trainer.h"
#include "src/model/door.h"
#include "src/model/execution.h"
#include "src/model/plan_inputs.h"

namespace mnemo {
namespace {

class SaveBench {
 public:
  SaveBench(v1::RunConfig config, const SaveBenchOptions& options)
      : options_(options), config_(std::move(config)), source_(config_) {
    // Saves behind the training, only when they are asked for.
    config_.mutable_train()->set_checkpoint_every(INT64_MAX);
    config_.mutable_train()->set_checkpoint_async(true);
    config_.mutable_train()->set_checkpoint_keep(1);
  }
  ~SaveBench() {
    checkpoints_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(root(), ignored);
  }

  absl::StatusOr<SaveBenchResult> Run() {
    MNEMO_RETURN_IF_ERROR(SetUp());
    std::vector<double> quiet, saving, stalls, saves;
    for (int round = 0; round < options_.rounds; ++round) {
      MNEMO_ASSIGN_OR_RETURN(const double seconds, Steps(options_.steps));
      quiet.push_back(seconds / options_.steps);
      MNEMO_RETURN_IF_ERROR(SaveOnce(saving, stalls, saves));
    }
    result_.tokens = metrics_.tokens();
    result_.quiet = Median(quiet);
    result_.saving = Median(saving);
    result_.stall = Median(stalls);
    result_.save = Median(saves);
    return result_;
  }

 private:
  std::string root() const { return options_.directory + "/mnemo-bench-saves"; }

  absl::Status SetUp() {
    MNEMO_ASSIGN_OR_RETURN(const v1::Plan plan, PlanRun(config_));
    MNEMO_RETURN_IF_ERROR(ReserveMemory("the configuration", config_, plan));
    MNEMO_ASSIGN_OR_RETURN(trainer_, Trainer::Create(config_, source_));
    RunCheckpoints::Options saves;
    saves.fs = &FileSystem::Posix();
    saves.directory = root() + "/checkpoints";
    *saves.about.mutable_config() = config_;
    saves.valid_targets = [](int64_t) -> absl::StatusOr<int64_t> { return 0; };
    saves.on_save = [this](const v1::CheckpointReport& report) { report_ = report; };
    checkpoints_ = std::make_unique<RunCheckpoints>(std::move(saves), *trainer_);
    MNEMO_RETURN_IF_ERROR(checkpoints_->Reserve());
    return Steps(options_.warmup).status();
  }

  // Seconds until the device has done them.
  absl::StatusOr<double> Steps(int steps) {
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < steps; ++i) {
      MNEMO_RETURN_IF_ERROR(trainer_->Step(metrics_, /*statistics=*/false));
    }
    WaitFor(ComputeDevice(config_.execution()));
    return Seconds(begin);
  }

  absl::Status SaveOnce(std::vector<double>& saving, std::vector<double>& stalls,
                        std::vector<double>& saves) {
    report_.reset();
    const Clock::time_point begin = Clock::now();
    MNEMO_RETURN_IF_ERROR(checkpoints_->Save());
    int steps = 0;
    while (!report_) {
      MNEMO_RETURN_IF_ERROR(Steps(1).status());
      ++steps;
      checkpoints_->Poll();
    }
    const double all = Seconds(begin);
    if (!report_->error().empty()) return absl::UnavailableError(report_->error());
    v1::StepMetrics cost;
    checkpoints_->Describe(/*recorded=*/true, cost);
    stalls.push_back(cost.seconds().checkpoint());
    saving.push_back((all - stalls.back()) / steps);
    saves.push_back(all);
    result_.saving_steps += steps;
    return CountBytes();
  }

  absl::Status CountBytes() {
    MNEMO_ASSIGN_OR_RETURN(const CheckpointReader reader,
                           CheckpointReader::Open(FileSystem::Posix(), report_->path()));
    result_.saved_bytes = 0;
    for (const v1::CheckpointFile& file : reader.manifest().files()) {
      result_.saved_bytes += file.bytes();
    }
    return absl::OkStatus();
  }

  using Clock = std::chrono::steady_clock;
  static double Seconds(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  const SaveBenchOptions& options_;
  v1::RunConfig config_;
  RandomTokens source_;
  std::unique_ptr<Trainer> trainer_;
  std::optional<v1::CheckpointReport> report_;
  std::unique_ptr<RunCheckpoints> checkpoints_;
  v1::StepMetrics metrics_;
  SaveBenchResult result_;
};

}  // namespace

absl::StatusOr<SaveBenchResult> BenchSaves(const v1::RunConfig& config,
                                           const SaveBenchOptions& options) {
  return AtTheDoor([&] { return SaveBench(config, options).Run(); });
}

}  // namespace mnemo
