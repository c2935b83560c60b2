// What saves behind the training cost the steps of a configuration.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"

namespace mnemo {

struct SaveBenchOptions {
  std::string directory;  // is made if it is not there; what is written in it is removed again
  int warmup = 3;         // steps before all others; at least 1
  int steps = 20;         // without a save, before each save
  int rounds = 3;         // saves
};

struct SaveBenchResult {
  int64_t tokens = 0;        // of a step
  int64_t saved_bytes = 0;   // of a checkpoint's files
  double quiet = 0;          // seconds of a step without a save: medians over the rounds
  double saving = 0;         // of those that begin while one is written, the stall taken off
  double stall = 0;          // that a save holds training up: for copies begun, waited for, or made
  double save = 0;           // from its beginning to its end
  int64_t saving_steps = 0;  // in all
  double slowdown() const { return saving / quiet - 1; }
};

// One rank, on random tokens; `config` is effective and its vocabulary is set. Steps without a save
// and saves alternate.
absl::StatusOr<SaveBenchResult> BenchSaves(const v1::RunConfig& config,
                                           const SaveBenchOptions& options);

}  // namespace mnemo
