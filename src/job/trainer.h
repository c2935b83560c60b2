// The training step: tokens in, updated parameters and metrics out. No files, no signals.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/job.pb.h"
#include "src/core/trace_range.h"
#include "src/job/step_source.h"
#include "src/model/execution.h"
#include "src/model/optimizer.h"
#include "src/model/parameters.h"
#include "src/model/unit_runner.h"
#include "src/parallel/ranks.h"

namespace mnemo {

// One rank, one device. Every rank of the job has a trainer and calls the same functions in the
// same order. Not thread-safe: all calls from the thread that made it, whose number of threads
// (execution.threads) it sets.
class Trainer {
 public:
  // `config` is effective and its vocabulary is set; `source` gives this rank's share of the tokens
  // (ShareOfReplica; ShardSource); it and `ranks` outlive the trainer. First values are those of
  // train.seed. Fails where the device is missing, memory does not suffice, or the mesh does not
  // suit the configuration.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const v1::RunConfig& config,
                                                         StepSource& source, Ranks& ranks);
  // For a rank alone.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const v1::RunConfig& config,
                                                         StepSource& source);

  // Takes the next step. Fills in everything but speed_of_light_share and evaluation_loss; the mean
  // gates and states of the layers only if `statistics` (the same on all ranks). Loss, norm,
  // tokens and layers are those of all ranks; times and memory this rank's. After an error the
  // parameters are those of the step before; the other ranks end with an error too. Aborted, with
  // `metrics` filled in and skipped() set, after optimizer.max_bad_steps steps in a row that were
  // not finite; after other errors `metrics` means nothing.
  absl::Status Step(v1::StepMetrics& metrics, bool statistics = true);
  // Called with a literal at the start of each phase of a step.
  void OnPhase(std::function<void(const char* phase)> on_phase) { on_phase_ = std::move(on_phase); }

  // Called in every step before anything of parameters and optimizer state changes, as late as can
  // be; forward and backward have run. The step ends with its error.
  void BeforeUpdate(std::function<absl::Status()> before) { before_update_ = std::move(before); }

  // Before ranks and transport end in peace, on all ranks: nothing is under way afterwards.
  absl::Status Drain() { return relay_->Drain(); }

  // As if `step` steps had been taken. Parameters and optimizer state are set by the caller.
  void Resume(int64_t step, const Optimizer::Counters& counters) {
    step_ = step;
    optimizer_->set_counters(counters);
  }

  // Sees the backward pass of every unit from now on: WavefrontOptions::on_backward.
  void Observe(decltype(WavefrontOptions::on_backward) observer) {
    wavefront_.on_backward = std::move(observer);
  }

  int64_t step() const { return step_; }  // taken so far
  const ModelSpec& spec() const { return spec_; }
  const v1::RunConfig& config() const { return config_; }
  // This rank's part of the model (spec().split); GatherParameters puts the parts together.
  const ParameterSet& parameters() const { return parameters_; }
  ParameterSet& parameters() { return parameters_; }
  // Of the last step, summed over all ranks; where the optimizer is sharded, only this rank's
  // shard.
  const ParameterSet& gradients() const { return gradients_; }
  const Optimizer& optimizer() const { return *optimizer_; }
  Ranks& ranks() { return ranks_; }
  // What this rank's units of the last step did, in order; the clock is the machine's.
  const std::vector<UnitSpan>& trace() const { return trace_; }
  // The most memory held during any step.
  int64_t peak_bytes() const { return peak_bytes_; }

 private:
  Trainer(const v1::RunConfig& config, StepSource& source, Ranks& ranks, const ReplicaShare& share);
  absl::Status RunStep(bool statistics, v1::StepMetrics& metrics);
  // Forward and backward of this rank's units of all wavefronts; gradients are added up.
  absl::Status RunWavefronts(StepTokens& tokens, bool statistics, v1::StepMetrics& metrics);
  // Sums over all ranks what the wavefronts left.
  absl::Status Combine(v1::StepMetrics& metrics, GradientNorm& norm);
  absl::Status Update(const GradientNorm& norm, v1::StepMetrics& metrics);
  void Enter(const char* phase) {
    phase_.emplace(phase);
    if (on_phase_) on_phase_(phase);
  }
  bool sharded() const { return pieces_.size() > 1; }

  v1::RunConfig config_;
  ModelSpec spec_;
  StepSource& source_;
  std::unique_ptr<Ranks> alone_;  // if no ranks were given
  Ranks& ranks_;
  ScheduleShape schedule_;
  RotaryCache rotary_;
  WavefrontOptions wavefront_;
  std::unique_ptr<Relay> relay_;
  ParameterSet parameters_, gradients_;
  std::vector<int64_t> pieces_;  // elements of each rank's shard; one entry: not sharded
  std::unique_ptr<Optimizer> optimizer_;
  std::vector<UnitSpan> trace_;
  int64_t step_ = 0;
  int64_t peak_bytes_ = 0;
  std::function<void(const char*)> on_phase_;
  std::function<absl::Status()> before_update_;
  std::optional<TraceRange> phase_;  // that a step is in
};

}  // namespace mnemo
