// Where a trainer's tokens come from.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "src/model/unit_runner.h"

namespace mnemo {

// The tokens of one step: A wavefronts, each of M micro-batches of B sequences.
struct StepTokens {
  std::vector<std::unique_ptr<TokenSource>> wavefronts;
  int64_t tokens = 0;         // positions, masked or not
  int64_t valid_targets = 0;  // targets that count; what the sum of losses is divided by
};

// Not thread-safe.
class StepSource {
 public:
  virtual ~StepSource() = default;
  // The tokens of a step, counted from 1: a pure function of the step, whatever was asked before.
  virtual absl::StatusOr<StepTokens> Load(int64_t step) = 0;
};

}  // namespace mnemo
