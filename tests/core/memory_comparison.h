// The chunk form against the two definitions, as worst relative errors.
#pragma once

#include "tests/core/memory_problem.h"

namespace mnemo::testing {

// The bound that exactness is measured by: rounding in f64 with room for badly conditioned layer
// norms.
inline constexpr double kExact = 1e-10;

// Values, carries and clamp hits against tests/reference, sequence by sequence and head by head.
// Expects equality within kExact (gtest) and returns the worst error.
double CompareWithReference(const MemoryProblem& problem);

// Outputs and gradients of a random functional of y and the carry out, with respect to every
// input, against the token-by-token rule differentiated by the tape. Expects kExact; returns the
// worst error.
double CompareWithNaive(const MemoryProblem& problem);

}  // namespace mnemo::testing
