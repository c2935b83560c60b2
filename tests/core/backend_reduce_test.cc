#include "tests/core/backend_test_util.h"

namespace mnemo {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

class Reduction : public BackendTest {
 protected:
  void Check(ReduceOp op, const Tensor& x, const Tensor& out) {
    std::vector<double> in = Values(x), want(out.elements(), op == ReduceOp::kSum ? 0 : -kInf);
    std::vector<double> size(out.elements(), 0);
    for (int64_t i = 0; i < x.elements(); ++i) {
      int64_t rest = i, target = 0, scale = 1;
      for (int axis = x.rank(); axis-- > 0;) {
        if (out.shape()[axis] != 1) target += rest % x.shape()[axis] * scale;
        scale *= out.shape()[axis];
        rest /= x.shape()[axis];
      }
      want[target] = op == ReduceOp::kSum ? want[target] + in[i] : std::max(want[target], in[i]);
      size[target] += std::abs(in[i]);
    }
    backend().Reduce(op, x, out);
    // Blocks of 128 in the tensor's type, and one rounding of the result.
    auto tolerance = [&](size_t i) {
      return op == ReduceOp::kMax ? 0 : epsilon() * (128 * size[i] + std::abs(want[i]));
    };
    ExpectNear(out, want, tolerance,
               fmt::format("{} to {}", ToString(x.shape()), ToString(out.shape())));
  }
};
INSTANTIATE_TEST_SUITE_P(Cpu, Reduction, testing::Values(DType::kF32, DType::kF64), DTypeName);

TEST_P(Reduction, EveryAxisAndLayout) {
  for (const Shape& shape : {Shape{3, 5, 37}, Shape{2, 130, 3}, Shape{1, 4, 1}, Shape{2, 1, 19}}) {
    for (int mask = 0; mask < 8; ++mask) {
      Shape reduced = shape;
      for (int axis = 0; axis < 3; ++axis) {
        if (mask >> axis & 1) reduced[axis] = 1;
      }
      for (ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax}) {
        for (Layout in : kLayouts) {
          for (Layout out : kOutputLayouts) {
            Check(op, RandomInput(in, shape, dtype(), "x"), Poisoned(reduced, dtype(), out));
          }
        }
      }
    }
  }
}

TEST_P(Reduction, LongOnesGoThroughPartialResults) {
  for (ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax}) {
    Check(op, RandomInput(Layout::kContiguous, {200001}, dtype(), "x"), Poisoned({1}, dtype()));
    Check(op, RandomInput(Layout::kContiguous, {2, 70001}, dtype(), "x"),
          Poisoned({2, 1}, dtype()));
    Check(op, RandomInput(Layout::kContiguous, {3001, 70}, dtype(), "x"),
          Poisoned({1, 70}, dtype()));
    Check(op, RandomInput(Layout::kContiguous, {2, 700, 300}, dtype(), "x"),
          Poisoned({1, 1, 300}, dtype()));
    Check(op, RandomInput(Layout::kContiguous, {40, 30, 90}, dtype(), "x"),
          Poisoned({1, 30, 1}, dtype()));
  }
}

// Naive summation in f32 would be off by a part in a hundred here.
TEST_P(Reduction, ErrorDoesNotGrowWithLength) {
  int64_t n = 4000000;
  Tensor x = Tensor::Full({n}, 0.1, dtype());
  double each = Values(x.Slice(0, 0, 1))[0];
  for (const Shape& shape : {Shape{n, 1}, Shape{1, n}}) {
    Tensor out = Poisoned({1, 1}, dtype());
    backend().Reduce(ReduceOp::kSum, x.View(shape), out);
    EXPECT_NEAR(out.Item(), each * n, 16 * epsilon() * each * n);
  }
}

TEST_P(Reduction, SpecialValues) {
  for (int64_t n : {1, 5, 16, 40, 300}) {
    for (bool rows : {false, true}) {
      Shape shape = rows ? Shape{n, 1} : Shape{1, n}, one{1, 1};
      for (double special : {kNan, kInf, -kInf}) {
        for (int64_t at : {int64_t{0}, n / 2, n - 1}) {
          Tensor x = Tensor::Full(shape, 2, dtype()), out = Tensor::Zeros(one, dtype());
          Store(x, at, special);
          backend().Reduce(ReduceOp::kSum, x, out);
          ExpectNear(
              out, {special}, [](size_t) { return 0.0; }, "sum");
          backend().Reduce(ReduceOp::kMax, x, out);
          ExpectNear(
              out, {special == -kInf && n > 1 ? 2 : special}, [](size_t) { return 0.0; }, "max");
        }
      }
    }
  }
}

TEST_P(Reduction, OfNothing) {
  Tensor x = Tensor::Empty({3, 0}, dtype()), out = Poisoned({3, 1}, dtype());
  backend().Reduce(ReduceOp::kSum, x, out);
  EXPECT_EQ(Values(out), std::vector<double>(3, 0));
  backend().Reduce(ReduceOp::kMax, x, out);
  EXPECT_EQ(Values(out), std::vector<double>(3, -kInf));
}

TEST_P(Reduction, Softmax) {
  for (const Shape& shape : {Shape{4, 3, 50}, Shape{7, 1}, Shape{2, 129}, Shape{5}}) {
    for (Layout in : kLayouts) {
      for (Layout lo : kOutputLayouts) {
        Tensor x = RandomInput(in, shape, dtype(), "x", 5), out = Poisoned(shape, dtype(), lo);
        backend().Softmax(x, out);
        std::vector<double> v = Values(x), want(v.size());
        int64_t n = shape.back();
        for (size_t row = 0; row < v.size() / n; ++row) {
          double* w = &want[row * n];
          double top = -kInf, sum = 0;
          for (int64_t i = 0; i < n; ++i) top = std::max(top, v[row * n + i]);
          for (int64_t i = 0; i < n; ++i) sum += w[i] = std::exp(v[row * n + i] - top);
          for (int64_t i = 0; i < n; ++i) w[i] /= sum;
        }
        // x - max loses eps |x - max| at most, about 40 here; the sum 128 eps.
        ExpectNear(
            out, want, [&](size_t i) { return 170 * epsilon() * want[i]; }, "softmax");
      }
    }
  }
}

TEST_P(Reduction, SoftmaxOfMaskedRows) {
  Tensor x = Tensor::Full({3, 20}, -kInf, dtype()), out = Poisoned({3, 20}, dtype());
  Store(x, 20 + 4, 1);
  Store(x, 40 + 9, kNan);
  backend().Softmax(x, out);
  std::vector<double> values = Values(out);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(values[i], i == 24 ? 1 : 0);
  for (int i = 40; i < 60; ++i) EXPECT_TRUE(std::isnan(values[i]));
}

TEST_P(Reduction, SquaredNorm) {
  for (int64_t n : {0, 1, 17, 5000, 100003}) {
    Tensor x = RandomInput(Layout::kContiguous, {n}, dtype(), "x");
    double want = 0;
    for (double v : Values(x)) want += v * v;
    EXPECT_NEAR(backend().SquaredNorms({&x, 1})[0], want, n * 1e-16 * want);
    if (n == 0) continue;
    Store(x, n - 1, kInf);
    EXPECT_EQ(backend().SquaredNorms({&x, 1})[0], kInf);
    Store(x, 0, kNan);
    EXPECT_TRUE(std::isnan(backend().SquaredNorms({&x, 1})[0]));
  }
}

}  // namespace
}  // namespace mnemo
