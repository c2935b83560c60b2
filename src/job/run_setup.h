// Everything that has to be there before the first step of a training run.
#pragma once

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "mnemo/v1/plan.pb.h"
#include "src/job/run_checkpoints.h"
#include "src/job/run_data.h"
#include "src/job/run_directory.h"
#include "src/job/run_record.h"
#include "src/job/run_start.h"
#include "src/job/shard_source.h"
#include "src/job/trainer.h"
#include "src/job/training_run.h"
#include "src/parallel/ranks.h"

namespace mnemo {

struct RunSetup {
  std::unique_ptr<Ranks> ranks;
  int ranks_here = 1;  // on this host
  RunData data;
  v1::Plan plan;
  std::unique_ptr<ShardSource> source;
  std::unique_ptr<Trainer> trainer;  // where the run begins: at `start`
  RunStart start;
  std::optional<RunDirectory> directory;  // of the first rank, as is the record
  std::optional<RunRecord> record;
  std::unique_ptr<RunCheckpoints> checkpoints;
  double ceiling = 0;  // FLOP/s of matrix products, all ranks together
};

// Fills in `setup`. Every rank calls it and returns an error if any does: one that all know, or the
// ranks have been aborted.
absl::Status SetUpRun(const TrainingRunOptions& options, RunSetup& setup);

}  // namespace mnemo
