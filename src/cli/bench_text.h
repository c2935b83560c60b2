// The text that benchmarks of a trained model read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/model/saved_model.h"

namespace mnemo {

// The first `tokens` of the held-out text in shards or directories of them. InvalidArgument if they
// are fewer, or of another tokenizer than the model's.
absl::StatusOr<std::vector<int32_t>> ReadHeldOutText(const std::vector<std::string>& shards,
                                                     const SavedModel& model, int64_t tokens);

}  // namespace mnemo
