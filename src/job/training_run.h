// A whole training run, on one rank or many: run directory, loop, metrics, held-out evaluation,
// checkpoints and resume, the model at the end.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/job.pb.h"
#include "mnemo/v1/plan.pb.h"
#include "src/core/file_system.h"
#include "src/job/agreement.h"
#include "src/job/loss_plot.h"
#include "src/job/run_data.h"
#include "src/parallel/transport.h"

namespace mnemo {

struct TrainingRunOptions {
  v1::RunConfig written;      // the configuration as the user gave it, or an effective one
  std::string config_name;    // heads its problems: the file
  std::string run_directory;  // made if need be; all ranks see it
  bool overwrite = false;
  bool strict = false;           // a damaged checkpoint is an error; otherwise an older one is used
  std::string writer = "mnemo";  // of checkpoints: program and version
  bool check_memory = true;      // refuse to run what is planned to need more than
  std::optional<int64_t> available_bytes;  // this; null: what the machine has now
  // How fast its matrix products are: 0.3 s. Without, speed_of_light_share is 0.
  bool measure_machine = true;
  FileSystem* fs = &FileSystem::Posix();

  Transport* transport = nullptr;      // to the other ranks; null: there are none
  std::optional<v1::Plan> plan;        // the job's; null: made here
  std::optional<int64_t> resume_step;  // see StartRequest

  // All may be empty. On the first rank: once before the first step, `first_step` steps having been
  // taken by an earlier run; after every step; after every step that metrics.jsonl records; after
  // every save, well or badly, and before the first step for the checkpoint from which the run goes
  // on if newer ones were found damaged then.
  std::function<void(const v1::RunConfig& effective, const v1::Plan& plan, int64_t first_step)>
      on_start;
  std::function<void(const v1::StepMetrics& metrics)> on_step;
  std::function<void(const v1::StepMetrics& metrics)> on_logged;
  std::function<void(const v1::CheckpointReport& report)> on_save;
  // On every rank. The steps taken, and what it does now: a literal.
  std::function<void(int64_t step, const char* operation)> on_phase;
  // On every rank: what was asked of it since the last call. Asked after every step and every slice
  // of an evaluation; what any rank wishes is done by all, after the same step. A stop ends the run
  // cleanly, without the rest of an evaluation; with a checkpoint if `save` is set as well.
  std::function<StepWishes()> wishes;
};

struct TrainingRunResult {
  bool first_rank = true;  // what follows, but for steps and stopped, is of the first rank
  std::string run_directory;
  std::string model_directory;
  std::string checkpoint;  // the newest; empty: none
  int64_t steps = 0;       // taken, by earlier runs too
  int64_t first_step = 0;  // ... by those
  bool stopped = false;
  // Of every step that was not skipped, and held-out; of earlier runs' steps, those recorded.
  LossCurves losses;
  int64_t skipped_steps = 0;
  int64_t failed_saves = 0;   // of this process
  int64_t peak_bytes = 0;     // measured
  int64_t planned_bytes = 0;  // estimated, of the same
  double seconds = 0;         // from the first step to the last, evaluation included
};

// Runs until train.steps have been taken, a wish to stop or an error; goes on where the newest
// checkpoint in the run directory was, if there is one, and is then bitwise the run that was never
// interrupted (on the same mesh). Every rank of the job calls it and returns an error if any does;
// see ShouldTell. The first rank owns the run directory.
//
// If an error ends a run of one rank after the first step, the model as of the last good step is
// written all the same and the error says where. A run whose steps stayed non-finite writes none;
// the bad steps are in metrics.jsonl. ResourceExhausted, with nothing written, if the run would not
// fit into memory. Errors are for the user: one line each.
absl::StatusOr<TrainingRunResult> RunTraining(const TrainingRunOptions& options);

}  // namespace mnemo
