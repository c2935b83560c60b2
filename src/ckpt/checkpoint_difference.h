// Where two checkpoints differ, whatever meshes wrote them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/ckpt/checkpoint_reader.h"
#include "src/core/config_difference.h"

namespace mnemo {

struct TensorDifference {
  std::string name;
  std::string kind = "";  // how dtype, shape or presence differ; "" if only values do
  int64_t elements = 0;   // whose bits differ
  double largest = 0;     // |a - b|; NaN where one of them is no number
  double relative = 0;    // `largest` over the largest |a|; infinite if that is 0
};

struct CheckpointDifference {
  std::vector<TensorDifference> tensors;  // only those that differ, in the order of the first
  int64_t compared = 0;                   // tensors that both have, alike in kind
  std::vector<ConfigDifference> config;
  // step, next_sample (the data position), counters, seed, digest of the data.
  std::vector<ConfigDifference> training;
  std::vector<ConfigDifference> tokenizer;

  bool none() const {
    return tensors.empty() && config.empty() && training.empty() && tokenizer.empty();
  }
};

// Reads all of both, verified, holding a piece of each at a time. What does not determine later
// steps is not compared: mesh, files, writer and time.
absl::StatusOr<CheckpointDifference> CompareCheckpoints(const CheckpointReader& a,
                                                        const CheckpointReader& b);

}  // namespace mnemo
