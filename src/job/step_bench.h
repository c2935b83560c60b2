// The speed of a configuration's training step on random tokens, beside what the hardware allows.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/job.pb.h"

namespace mnemo {

struct StepBenchOptions {
  int warmup = 3;  // steps that are not timed; at least 1
  int steps = 10;  // timed
  // Waits for the device where one phase of a step ends and the next begins, which costs a little
  // overlap; otherwise only whole steps are timed.
  bool phases = false;
};

struct StepBenchResult {
  std::vector<double> seconds;  // of each timed step
  double median = 0;
  int64_t tokens = 0;                                  // of a step
  double model_flops = 0;                              // of a step; flops.h
  std::vector<std::pair<std::string, double>> phases;  // medians in seconds, in order
  int64_t peak_bytes = 0;                              // of tensors
  int64_t planned_bytes = 0;                           // the same by the planner
  int64_t parameters = 0;
  v1::StepMetrics last;

  double tokens_per_second() const { return static_cast<double>(tokens) / median; }
  double flops() const { return model_flops / median; }  // per second
};

// `config` is effective and its vocabulary is set; no data are read. One rank.
absl::StatusOr<StepBenchResult> BenchStep(const v1::RunConfig& config,
                                          const StepBenchOptions& options);

}  // namespace mnemo
