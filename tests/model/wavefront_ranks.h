// A wavefront that the ranks of a job run together, against the same on one rank.
#pragma once

#include <string>
#include <vector>

#include "src/parallel/ranks.h"
#include "tests/model/tiny_model.h"

namespace mnemo::testing {

// How far results may lie apart. 0: not at all.
struct WavefrontTolerance {
  double losses = 0;     // of single tokens, absolute
  double gradients = 0;  // of a parameter, relative to its largest
};

// Runs this rank's share of forward and backward, and compares it with the whole: the losses of its
// slices, and the gradients of all its parameters once they are summed. What the ranks of a tp axis
// hold alike must be so bitwise. `spec` and `parameters` are this rank's own (SplitSpec), the rest
// is of the whole; all slices of `options` are equally long. Every rank calls it.
void ExpectSameAsWhole(Ranks& ranks, const ModelSpec& spec, const ParameterSet& parameters,
                       const std::vector<std::vector<int>>& tokens, const StepOptions& options,
                       const StepResult& whole, const WavefrontTolerance& tolerance);

}  // namespace mnemo::testing
