// Random problems for the memory rule, as flat lists of f64 tensors, so that derivatives of all of
// them are compared in one way.
#pragma once

#include <string>
#include <vector>

#include "src/core/fused/memory_scan.h"
#include "tests/core/gradient_check.h"

namespace mnemo::testing {

struct MemoryProblem {
  MemoryRule rule;
  int64_t batch = 2, heads = 2, tokens = 0;
  Tensor resets;               // [B, chunks that begin] or undefined
  std::vector<Tensor> inputs;  // q, k, v, gates, parameters, first state
  std::vector<std::string> names;
};

struct MemoryArguments {
  MemoryTokens tokens;
  MemoryParameters parameters;
  MemoryState state;  // at the beginning of a chunk
};

// A carry-in that is not the first state. `resets` puts flags on some chunks of some sequences.
MemoryProblem MakeMemoryProblem(const MemoryRule& rule, int64_t tokens, bool resets, uint64_t seed);

MemoryArguments Unpack(const MemoryRule& rule, std::span<const Var> inputs);

// y, then W and S of the last chunk boundary (weights, biases), for both forms.
std::vector<Var> Results(const MemoryRule& rule, const Var& y, MemoryState state);

// MemoryScan over pieces of these lengths (empty: all at once), each continuing the last.
Function ScanFunction(const MemoryProblem& problem, const std::vector<int64_t>& pieces = {});

std::string Describe(const MemoryRule& rule);

}  // namespace mnemo::testing
