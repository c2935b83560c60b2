#include <algorithm>
#include <numeric>

#include "src/core/ops_internal.h"

namespace mnemo {
namespace internal {

int NormalizeAxis(const Var& x, int axis, const char* op) {
  const int rank = x.rank();
  Require(axis >= -rank && axis < rank, "{}: axis {} of shape {}", op, axis, x.shape());
  return axis < 0 ? axis + rank : axis;
}

}  // namespace internal

using internal::BackendOf;
using internal::EmptyLike;
using internal::NormalizeAxis;
using internal::RecordOne;

Var SumTo(const Var& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  Require(shape.size() <= x.shape().size(), "sum_to: {} to {}", x.shape(), shape);
  // Same rank with ones in front, as the kernel wants it.
  Shape padded(x.shape().size() - shape.size(), 1);
  padded.insert(padded.end(), shape.begin(), shape.end());
  for (size_t i = 0; i < padded.size(); ++i) {
    Require(padded[i] == x.shape()[i] || padded[i] == 1, "sum_to: {} to {}", x.shape(), shape);
  }
  Tensor out = EmptyLike(x.value(), padded);
  BackendOf(out).Reduce(ReduceOp::kSum, x.value(), out);
  return RecordOne(Primitive::kSumTo, {x}, out.View(shape), {},
                   [](VjpContext& c) { c.Set(0, BroadcastTo(c.grad(), c.input_shape(0))); });
}

Var Sum(const Var& x, int axis) {
  Shape shape = x.shape();
  shape[NormalizeAxis(x, axis, "sum")] = 1;
  return SumTo(x, shape);
}

Var Mean(const Var& x, int axis) {
  const int64_t size = x.dim(axis);
  return Scale(Sum(x, axis), 1.0 / static_cast<double>(size));
}

Var SumAll(const Var& x) { return SumTo(x, {}); }

Var BroadcastTo(const Var& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  return RecordOne(Primitive::kBroadcastTo, {x}, x.value().BroadcastTo(shape), {},
                   [](VjpContext& c) { c.Set(0, SumTo(c.grad(), c.input_shape(0))); });
}

Tensor MaxOverLast(const Tensor& x) {
  Shape shape = x.shape();
  shape.back() = 1;
  Tensor out = EmptyLike(x, shape);
  BackendOf(x).Reduce(ReduceOp::kMax, x, out);
  return out;
}

Var Reshape(const Var& x, const Shape& shape) {
  if (x.shape() == shape) return x;
  const Var y = RecordOne(Primitive::kReshape, {x}, x.value().Reshape(shape), {},
                          [](VjpContext& c) { c.Set(0, Reshape(c.grad(), c.input_shape(0))); });
  Tape::ShareGradientSum(x, y, [&y](const Tensor& sum) {
    return sum.CanView(y.shape()) ? sum.View(y.shape()) : Tensor();
  });
  return y;
}

Var Permute(const Var& x, std::span<const int> order) {
  Tensor out = x.value().Permute(order);  // which checks the order
  std::vector<int> inverse(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    inverse[NormalizeAxis(x, order[i], "permute")] = static_cast<int>(i);
  }
  const Var y = RecordOne(Primitive::kPermute, {x}, std::move(out), {},
                          [inverse](VjpContext& c) { c.Set(0, Permute(c.grad(), inverse)); });
  Tape::ShareGradientSum(x, y, [&](const Tensor& sum) { return sum.Permute(order); });
  return y;
}

Var Permute(const Var& x, std::initializer_list<int> order) {
  return Permute(x, std::span(order.begin(), order.size()));
}

Var Transpose(const Var& x) {
  Require(x.rank() >= 2, "transpose: shape {}", x.shape());
  std::vector<int> order(x.rank());
  std::iota(order.begin(), order.end(), 0);
  std::swap(order[order.size() - 1], order[order.size() - 2]);
  return Permute(x, order);
}

Var Slice(const Var& x, int axis, int64_t begin, int64_t end) {
  axis = NormalizeAxis(x, axis, "slice");
  const int64_t size = x.dim(axis);
  if (begin == 0 && end == size) return x;
  return RecordOne(
      Primitive::kSlice, {x}, x.value().Slice(axis, begin, end), {},
      [axis, begin, size](VjpContext& c) { c.Set(0, PadSlice(c.grad(), axis, begin, size)); });
}

Var PadSlice(const Var& x, int axis, int64_t begin, int64_t size) {
  axis = NormalizeAxis(x, axis, "pad_slice");
  const int64_t end = begin + x.dim(axis);
  Require(begin >= 0 && end <= size, "pad_slice: [{}, {}) of {}", begin, end, size);
  Shape shape = x.shape();
  shape[axis] = size;
  Tensor out = Tensor::Zeros(shape, x.dtype(), x.device());
  BackendOf(out).Copy(x.value(), out.Slice(axis, begin, end));
  return RecordOne(
      Primitive::kPadSlice, {x}, std::move(out), {},
      [axis, begin, end](VjpContext& c) { c.Set(0, Slice(c.grad(), axis, begin, end)); });
}

std::vector<Var> Split(const Var& x, int axis, std::span<const int64_t> sizes) {
  axis = NormalizeAxis(x, axis, "split");
  Require(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}) == x.dim(axis),
          "split: sizes do not add up to dim {} of {}", axis, x.shape());
  if (sizes.size() == 1) return {x};
  std::vector<Tensor> parts;
  int64_t begin = 0;
  for (const int64_t size : sizes) {
    parts.push_back(x.value().Slice(axis, begin, begin + size));
    begin += size;
  }
  const std::vector<Var> views = Tape::Record(Primitive::kSplit, {&x, 1}, std::move(parts), {},
                                              [axis, count = sizes.size()](VjpContext& c) {
                                                std::vector<Var> gradients;
                                                for (size_t i = 0; i < count; ++i) {
                                                  gradients.push_back(c.grad(static_cast<int>(i)));
                                                }
                                                c.Set(0, Concat(gradients, axis));
                                              });
  begin = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    Tape::ShareGradientSum(
        x, views[i], [&](const Tensor& sum) { return sum.Slice(axis, begin, begin + sizes[i]); });
    begin += sizes[i];
  }
  return views;
}

Var Concat(std::span<const Var> parts, int axis) {
  Require(!parts.empty(), "concat of nothing");
  if (parts.size() == 1) return parts[0];
  axis = NormalizeAxis(parts[0], axis, "concat");
  Shape shape = parts[0].shape();
  std::vector<int64_t> sizes;
  for (const Var& part : parts) {
    internal::RequireSameType(part, parts[0], "concat");
    Shape rest = part.shape();
    Require(rest.size() == shape.size(), "concat: ranks of {} and {}", rest, parts[0].shape());
    sizes.push_back(rest[axis]);
    rest[axis] = shape[axis];
    Require(rest == shape, "concat along {}: {} and {}", axis, part.shape(), parts[0].shape());
  }
  shape[axis] = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  Tensor out = EmptyLike(parts[0].value(), shape);
  int64_t begin = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    BackendOf(out).Copy(parts[i].value(), out.Slice(axis, begin, begin + sizes[i]));
    begin += sizes[i];
  }
  return Tape::Record(Primitive::kConcat, parts, {std::move(out)}, {},
                      [axis, sizes](VjpContext& c) {
                        const std::vector<Var> gradients = Split(c.grad(), axis, sizes);
                        for (size_t i = 0; i < sizes.size(); ++i) {
                          c.Set(static_cast<int>(i), gradients[i]);
                        }
                      })[0];
}

}  // namespace mnemo
