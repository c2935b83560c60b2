// One training step over very long sequences, on many ranks, and what it took: memory beside the
// plan's, the schedule's busy fraction beside the simulation's, and how the gradient behaves along
// the sequence.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/job.pb.h"
#include "mnemo/v1/plan.pb.h"
#include "src/data/token_set.h"
#include "src/parallel/transport.h"

namespace mnemo {

struct RankMemory {
  int64_t resident_before = 0;  // bytes resident when nothing of the step was there yet
  int64_t resident_peak = 0;
  int64_t tensor_peak = 0;  // of them, tensors
};

// |dL/dx| of single positions, x the embeddings that a sequence's first layer reads, and the norm
// of the adjoint of the carry that a slice reads: what comes back from all that follows the slice.
// Sequences of a step are taken together.
struct SliceGradient {
  double median = 0, largest = 0;  // of the slice's positions
  double carry = 0;                // of all layers; 0 for the first slice, which reads none
};

struct LongBenchResult {
  v1::Plan plan;
  v1::StepMetrics step;  // of the first rank
  double seconds = 0;
  std::vector<RankMemory> ranks;
  double busy = 0;                    // of the first replica's trace; one machine's clock
  std::vector<SliceGradient> slices;  // of the first replica
  SliceGradient all;                  // medians and maxima of all of them
  bool finite = true;                 // the gradients

  // The fullest rank's peak over the plan's total.
  double PeakOverPlan() const;
};

// Every rank of the transport calls it, with the same arguments; all get the same result, but for
// `step`. `config` is effective and its vocabulary is set; the plan is its own (PlanRun).
absl::StatusOr<LongBenchResult> BenchLongSequence(const v1::RunConfig& config,
                                                  std::shared_ptr<const TokenSet> tokens,
                                                  Transport& transport);

}  // namespace mnemo
