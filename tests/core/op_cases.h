// The test cases of the primitives, one list per ops_*.cc file.
#pragma once

#include <string>
#include <vector>

#include "src/core/primitives.h"
#include "tests/core/gradient_check.h"

namespace mnemo::testing {

// A row-major host copy, for the plain loops that values are compared with.
struct Plain {
  Shape shape;
  std::vector<double> values;
  // The element at these indices; trailing dims align and size 1 repeats, as in broadcasting.
  double operator()(const std::vector<int64_t>& index) const;
};
using PlainFunction = std::function<std::vector<double>(const std::vector<Plain>&)>;

struct OpCase {
  Primitive primitive;
  std::string name;            // unique within the primitive
  std::vector<Tensor> inputs;  // f64
  Function run;
  PlainFunction expected = nullptr;  // the first output by plain loops; may be missing
  int64_t length = 1;                // terms of the longest sum, for tolerances
  double difference_tolerance = 1e-8;
};

std::vector<OpCase> ElementwiseCases();
std::vector<OpCase> ShapeCases();
std::vector<OpCase> StructuredCases();

// Calls f(index) for every index of `shape` in row-major order and collects the results.
std::vector<double> ForEachIndex(const Shape& shape,
                                 const std::function<double(const std::vector<int64_t>&)>& f);

}  // namespace mnemo::testing
