// Where a training run begins: at its first step, or where a checkpoint in its directory was.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "src/core/digest.h"
#include "src/core/file_system.h"
#include "src/job/run_directory.h"

namespace mnemo {

struct RunStart {
  int64_t step = 0;         // taken already
  std::string checkpoint;   // its directory; empty: first values
  int64_t tokens_seen = 0;  // by then
  // Directory of the weights that the run began with, or is to begin with; empty: random ones. Of a
  // run that goes on, what its checkpoint says.
  std::string initial_weights = "";
};

struct StartRequest {
  v1::RunConfig config;  // effective
  Digest data;           // DataDigest
  bool overwrite = false;
  // The step of the checkpoint to go on from, 0 for the first values; null: the newest whole one.
  std::optional<int64_t> resume_step;
  bool strict = false;  // a damaged checkpoint that is newer than the newest whole one is an error
};

// Changes nothing but to discard a run that is to be overwritten. Warns of damaged checkpoints, and
// of changed settings that may be changed. DataLoss if there are checkpoints but only damaged ones,
// or by `strict`. FailedPrecondition if the directory holds a run that has
// ended or another run (the first setting that differs is named).
absl::StatusOr<RunStart> DecideStart(FileSystem& fs, const RunDirectory& directory,
                                     const StartRequest& request);

}  // namespace mnemo
