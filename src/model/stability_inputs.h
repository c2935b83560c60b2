// A memory at its first weights for MeasureGrowth (stability.h): with random inputs, or one key for
// ever.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/model/spec.h"
#include "src/model/stability.h"

namespace mnemo {

enum class MemoryInputs {
  kRandom,       // q, k = L2norm(SiLU(normal)), v = SiLU(normal), fresh for every token
  kRepeatedKey,  // the same, but one q = k for the whole sequence
};

// The memory of a layer at its first weights, gates at their initial values, `tokens` long. Only
// the given heads of the specification's, in that order (their alphas differ).
MemoryRun FirstMemoryRun(const ModelSpec& spec, std::span<const int64_t> heads, MemoryInputs inputs,
                         int64_t tokens, uint64_t seed);

// The heads of distinct initial alpha: all of them, or at most `most` evenly spaced ones, the first
// and the last among them. One where the rule never forgets, as then all heads are alike.
std::vector<int64_t> DistinctHeads(const ModelSpec& spec, int64_t most);

// Whether two models have the same memory: rule, first weights, gates. The number of heads may
// differ: their initial alphas are then spaced otherwise between the same ends.
bool SameMemory(const ModelSpec& a, const ModelSpec& b);

// "depth 2, hidden 256, GELU, residual, LN, chunk 64, theta_max 0.015625, alpha 0.001 .. 1e-06".
std::string DescribeMemory(const ModelSpec& spec);

}  // namespace mnemo
