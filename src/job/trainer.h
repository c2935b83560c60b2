// The training step: tokens in, updated parameters and metrics out. No files, no signals.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/job.pb.h"
#include "src/job/step_source.h"
#include "src/model/execution.h"
#include "src/model/optimizer.h"
#include "src/model/parameters.h"
#include "src/model/unit_runner.h"

namespace mnemo {

// One process, one device. Not thread-safe: all calls from the thread that made it, whose number of
// threads (execution.threads) it sets.
class Trainer {
 public:
  // `config` is effective and its vocabulary is set; `source` outlives the trainer. First values
  // are those of train.seed. Fails where the device is missing or memory does not suffice.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const v1::RunConfig& config,
                                                         StepSource& source);

  // Takes the next step. Fills in everything but speed_of_light_share and evaluation_loss; the mean
  // gates and states of the layers only if `statistics`. After an error the parameters are those
  // of the step before. Aborted, with `metrics` filled in and skipped() set, after
  // optimizer.max_bad_steps steps in a row that were not finite; after other errors `metrics` means
  // nothing.
  absl::Status Step(v1::StepMetrics& metrics, bool statistics = true);

  int64_t step() const { return step_; }  // taken so far
  const ModelSpec& spec() const { return spec_; }
  const v1::RunConfig& config() const { return config_; }
  const ParameterSet& parameters() const { return parameters_; }
  ParameterSet& parameters() { return parameters_; }
  const Optimizer& optimizer() const { return *optimizer_; }
  // The most memory held during any step.
  int64_t peak_bytes() const { return peak_bytes_; }

 private:
  Trainer(const v1::RunConfig& config, StepSource& source);
  absl::Status RunStep(bool statistics, v1::StepMetrics& metrics);
  // Forward and backward of all wavefronts; gradients are added up.
  void RunWavefronts(StepTokens& tokens, bool statistics, v1::StepMetrics& metrics);
  absl::Status Update(double loss, v1::StepMetrics& metrics);

  v1::RunConfig config_;
  ModelSpec spec_;
  StepSource& source_;
  ScheduleShape schedule_;
  WavefrontOptions wavefront_;
  ParameterSet parameters_, gradients_;
  std::unique_ptr<Optimizer> optimizer_;
  int64_t step_ = 0;
  int64_t peak_bytes_ = 0;
};

}  // namespace mnemo
