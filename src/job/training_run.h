// A whole training run: run directory, loop, metrics, held-out evaluation, the model at the end.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/job.pb.h"
#include "mnemo/v1/plan.pb.h"
#include "src/core/file_system.h"
#include "src/data/token_set.h"
#include "src/job/loss_plot.h"
#include "src/job/run_directory.h"
#include "src/job/step_source.h"
#include "src/job/trainer.h"

namespace mnemo {

struct TrainingRunOptions {
  v1::RunConfig written;      // the configuration as the user gave it
  std::string config_name;    // heads its problems: the file
  std::string run_directory;  // made if need be
  bool overwrite = false;
  bool check_memory = true;                // refuse to run what is planned to need more than
  std::optional<int64_t> available_bytes;  // this; null: what the machine has now
  FileSystem* fs = &FileSystem::Posix();
  // Called once before the first step, then after every step. May be empty.
  std::function<void(const v1::RunConfig& effective, const v1::Plan& plan)> on_start;
  std::function<void(const v1::StepMetrics& metrics)> on_step;
  // Asked after every step and every slice of an evaluation; true ends the run cleanly, without the
  // rest of that evaluation. May be empty.
  std::function<bool()> should_stop;
};

struct TrainingRunResult {
  std::string run_directory;
  std::string model_directory;
  int64_t steps = 0;  // taken
  bool stopped = false;
  LossCurves losses;  // of every step that was not skipped, and held-out
  int64_t skipped_steps = 0;
  int64_t peak_bytes = 0;     // measured
  int64_t planned_bytes = 0;  // estimated
  double seconds = 0;         // from the first step to the last, evaluation included
};

// Runs until train.steps have been taken, should_stop() is true or a step fails. If an error ends
// it after the first step, the model as of the last good step is written all the same and the error
// says where. A run whose steps stayed non-finite writes none; the bad steps are in metrics.jsonl.
// ResourceExhausted, with nothing written, if the run would not fit into memory. Errors are for the
// user: one line each.
absl::StatusOr<TrainingRunResult> RunTraining(const TrainingRunOptions& options);

// Fills in the defaults and what the data decides: model.vocabulary. InvalidArgument if the
// configuration is wrong or its vocabulary is smaller than the tokenizer's.
absl::StatusOr<v1::RunConfig> ResolveConfig(const v1::RunConfig& written, const std::string& name,
                                            const ShardTokenizer& tokenizer);

}  // namespace mnemo
