// Inputs in many layouts, poisoned outputs and plain-loop access for the backend's tests.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "src/core/backend.h"
#include "src/core/random.h"

namespace mnemo {

inline double Epsilon(DType dtype) {
  return dtype == DType::kF32 ? std::numeric_limits<float>::epsilon()
                              : std::numeric_limits<double>::epsilon();
}

// The smallest step of results near zero.
inline double Tiny(DType dtype) {
  return dtype == DType::kF32 ? std::numeric_limits<float>::min()
                              : std::numeric_limits<double>::min();
}

inline void Store(const Tensor& x, int64_t offset, double value) {
  if (x.dtype() == DType::kF32) {
    x.data<float>()[offset] = static_cast<float>(value);
  } else {
    x.data<double>()[offset] = value;
  }
}

// Offset of the element with this row-major index.
inline int64_t OffsetOf(const Tensor& x, int64_t index) {
  int64_t offset = 0;
  for (int axis = x.rank(); axis-- > 0;) {
    offset += index % x.shape()[axis] * x.strides()[axis];
    index /= x.shape()[axis];
  }
  return offset;
}

// Row-major values of any view, read without the backend.
inline std::vector<double> Values(const Tensor& x) {
  std::vector<double> values(x.elements());
  for (int64_t i = 0; i < x.elements(); ++i) {
    int64_t offset = OffsetOf(x, i);
    values[i] = x.dtype() == DType::kF32 ? x.data<float>()[offset] : x.data<double>()[offset];
  }
  return values;
}

enum class Layout { kContiguous, kPermuted, kSliced, kBroadcast };
inline constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kPermuted, Layout::kSliced,
                                      Layout::kBroadcast};
inline constexpr Layout kOutputLayouts[] = {Layout::kContiguous, Layout::kPermuted,
                                            Layout::kSliced};

// A view of `shape` in fresh storage whose every element, seen or not, is `value(i)`.
inline Tensor MakeView(Layout layout, const Shape& shape, DType dtype,
                       const std::function<double(int64_t)>& value) {
  auto make = [&](const Shape& stored) {
    Tensor x = Tensor::Empty(stored, dtype);
    for (int64_t i = 0; i < x.elements(); ++i) Store(x, i, value(i));
    return x;
  };
  int last = static_cast<int>(shape.size()) - 1;
  switch (layout) {
    case Layout::kContiguous:
      return make(shape);
    case Layout::kPermuted: {  // stored with the axes in reverse
      Shape reversed(shape.rbegin(), shape.rend());
      std::vector<int> order;
      for (int axis = last; axis >= 0; --axis) order.push_back(axis);
      return make(reversed).Permute(order);
    }
    case Layout::kSliced: {  // a window of something larger, in both outer axes
      Shape larger = shape;
      larger[last] += 5;
      if (last > 0) larger[0] += 2;
      Tensor x = make(larger).Slice(last, 2, larger[last] - 3);
      return last > 0 ? x.Slice(0, 1, larger[0] - 1) : x;
    }
    case Layout::kBroadcast: {  // the first axis repeats; of a vector, its one element
      Shape smaller = shape;
      smaller[0] = 1;
      return make(smaller).BroadcastTo(shape);
    }
  }
  return Tensor();
}

// Normal values, `scale` wide; streams of different names differ.
inline Tensor RandomInput(Layout layout, const Shape& shape, DType dtype, const std::string& name,
                          double scale = 1) {
  RandomStream stream(7, 0, name);
  return MakeView(layout, shape, dtype, [&](int64_t i) { return scale * stream.Normal(i); });
}

// Full of NaN, so that an element that is read or left unwritten shows.
inline Tensor Poisoned(const Shape& shape, DType dtype, Layout layout = Layout::kContiguous) {
  return MakeView(layout, shape, dtype,
                  [](int64_t) { return std::numeric_limits<double>::quiet_NaN(); });
}

// |got - want| <= tolerance(i), NaN equal to NaN and infinities to themselves.
inline void ExpectNear(const Tensor& got, const std::vector<double>& want,
                       const std::function<double(size_t)>& tolerance, const std::string& what) {
  std::vector<double> values = Values(got);
  ASSERT_EQ(values.size(), want.size()) << what;
  int reported = 0;
  for (size_t i = 0; i < want.size() && reported < 5; ++i) {
    bool same = values[i] == want[i] || (std::isnan(values[i]) && std::isnan(want[i]));
    if (same || std::abs(values[i] - want[i]) <= tolerance(i)) continue;
    ++reported;
    ADD_FAILURE() << what << " element " << i << ": " << values[i] << " for " << want[i]
                  << ", tolerance " << tolerance(i);
  }
}

class BackendTest : public testing::TestWithParam<DType> {
 protected:
  DType dtype() const { return GetParam(); }
  double epsilon() const { return Epsilon(dtype()); }
  Backend& backend() const { return CpuBackend(); }
};

inline std::string DTypeName(const testing::TestParamInfo<DType>& info) { return Name(info.param); }

}  // namespace mnemo
