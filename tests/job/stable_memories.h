// Whether the memories of a trained model are stable on what they read: gates are learnt and can
// drift.
#pragma once

#include <cstdint>
#include <span>

#include "src/model/parameters.h"

namespace mnemo {

// Both growths of every head, in f64, over `tokens` as one sequence; prints them.
void ExpectStableMemories(const ModelSpec& spec, const ParameterSet& parameters,
                          std::span<const int32_t> tokens);

}  // namespace mnemo
