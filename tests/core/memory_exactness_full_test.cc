// Every combination of the memory's options against both definitions.
#include <gtest/gtest.h>

#include "tests/core/memory_comparison.h"
#include "tests/core/memory_rules.h"

namespace mnemo::testing {
namespace {

TEST(MemoryExactnessFull, EveryRuleMatchesBothDefinitions) {
  double values = 0, gradients = 0;
  uint64_t seed = 0;
  for (const MemoryRule& rule : AllRules()) {
    ++seed;
    const MemoryProblem problem = MakeMemoryProblem(rule, seed % 3 ? 11 : 8, seed % 2 == 0, seed);
    values = std::max(values, CompareWithReference(problem));
    gradients = std::max(gradients, CompareWithNaive(problem));
  }
  fmt::print("worst error: values {:.1e}, with gradients {:.1e}\n", values, gradients);
}

}  // namespace
}  // namespace mnemo::testing
