// What each layer's memory reads when a model runs over a text, for MeasureGrowth (stability.h).
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/status.h"
#include "src/model/parameters.h"
#include "src/model/stability.h"

namespace mnemo {

// Runs a model over one sequence of tokens, layer by layer, and hands each layer's memory, with all
// that it reads of these tokens, to `sink`. Parameters are f64. Holds the inputs of one layer:
// about tokens * width * 40 bytes. The error of the sink ends it.
using LayerMemorySink = std::function<absl::Status(int layer, const MemoryRun& run)>;
absl::Status TraceMemories(const ModelSpec& spec, const ParameterSet& parameters,
                           std::span<const int32_t> tokens, const LayerMemorySink& sink);

}  // namespace mnemo
