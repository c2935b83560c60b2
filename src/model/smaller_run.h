// What to change in a run that is too large for its memory: found by planning alone.
#pragma once

#include <optional>
#include <string>

#include "mnemo/v1/config.pb.h"

namespace mnemo {

struct SmallerRun {
  v1::RunConfig config;
  std::string changes;  // "train.rematerialize: UNITS", several in a row
  int64_t bytes = 0;    // planned for the fullest rank
  bool fits = false;
};

// The first of these runs whose fullest rank is planned to take at most `limit` bytes, each with
// what comes before it: train.rematerialize UNITS, then SLICES; a half, a quarter and an eighth of
// train.slice; half of train.sequences again and again, then of train.micro_batches, with as many
// times train.accumulation, so that a step has the same tokens. If none does, the smallest. Null if
// nothing can be made smaller. `config` is effective and its vocabulary is set.
std::optional<SmallerRun> FindSmallerRun(const v1::RunConfig& config, int ranks, int64_t limit);

}  // namespace mnemo
