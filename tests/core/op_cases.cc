#include "tests/core/op_cases.h"

namespace mnemo::testing {

double Plain::operator()(const std::vector<int64_t>& index) const {
  int64_t offset = 0;
  const size_t skip = index.size() - shape.size();
  for (size_t i = 0; i < shape.size(); ++i) {
    offset = offset * shape[i] + (shape[i] == 1 ? 0 : index[skip + i]);
  }
  return values.at(offset);
}

std::vector<double> ForEachIndex(const Shape& shape,
                                 const std::function<double(const std::vector<int64_t>&)>& f) {
  std::vector<double> results;
  std::vector<int64_t> index(shape.size());
  for (int64_t n = 0; n < ElementCount(shape); ++n) {
    int64_t rest = n;
    for (size_t i = shape.size(); i-- > 0;) {
      index[i] = rest % shape[i];
      rest /= shape[i];
    }
    results.push_back(f(index));
  }
  return results;
}

}  // namespace mnemo::testing
