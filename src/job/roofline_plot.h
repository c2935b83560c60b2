// A roofline as a picture: what ops reach beside what a device gives at most. A pure function.
#pragma once

#include <string>
#include <vector>

#include "src/job/op_bench.h"

namespace mnemo {

struct Roofline {
  std::string title;  // "ops, bf16, NVIDIA H200"
  Ceilings ceilings;
  std::vector<OpTime> ops;  // those without FLOP have no place and are left out
};

// A standalone SVG document, both axes logarithmic: FLOP a byte moved, and TFLOP/s. The roof is the
// lesser of the two ceilings. Ops of one name share a number, which a list beside the plot names
// together with their shares of the roof; ops of the same name on other models differ by their
// mark.
std::string RooflineSvg(const Roofline& roofline);

}  // namespace mnemo
