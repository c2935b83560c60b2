// Trains a model on associative recall (src/model/recall_task.h).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "src/model/parameters.h"
#include "src/model/recall_task.h"

namespace mnemo {

struct RecallOptions {
  RecallShape shape;
  int64_t batch = 64;
  int64_t evaluation_batches = 4;  // fresh data, never trained on
  int64_t report_every = 100;      // steps between accuracies
  double stop_at = 1.1;            // ends early once this accuracy is reached
  double seconds = 0;              // ends early once so much time has passed; 0: never
};

struct RecallReport {
  int64_t step = 0;
  double loss = 0, accuracy = 0, seconds = 0;
};

struct RecallResult {
  std::vector<RecallReport> reports;  // the last one at the end
  ModelSpec spec;
  ParameterSet parameters;  // as trained
};

// Trains a model of `config` (effective and checked; its vocabulary, sequence length and batch are
// the task's). `progress` may be empty. Errors are
// those of CheckRecallShape and of Trainer. Sets the calling thread's number of threads.
absl::StatusOr<RecallResult> TrainRecall(const v1::RunConfig& config, const RecallOptions& options,
                                         const std::function<void(const RecallReport&)>& progress);

}  // namespace mnemo
