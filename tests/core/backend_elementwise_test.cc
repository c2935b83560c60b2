#include "tests/core/backend_test_util.h"

namespace mnemo {
namespace {

class Elementwise : public BackendTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, Elementwise, testing::Values(DType::kF32, DType::kF64), DTypeName);

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

TEST_P(Elementwise, Affine) {
  for (Layout layout : kLayouts) {
    Shape shape{3, 21};
    Tensor x = RandomInput(layout, shape, dtype(), "x");
    Tensor out = Poisoned(shape, dtype());
    backend().Affine(x, -1.5, 0.25, out);
    std::vector<double> in = Values(x), want(in.size());
    for (size_t i = 0; i < in.size(); ++i) want[i] = -1.5 * in[i] + 0.25;
    ExpectNear(
        out, want, [&](size_t i) { return epsilon() * (1.5 * std::abs(in[i]) + 0.25); }, "affine");
  }
}

TEST_P(Elementwise, BinaryHandlesEveryLayout) {
  struct Op {
    BinaryOp op;
    double (*f)(double, double);
  };
  const Op ops[] = {{BinaryOp::kAdd, [](double a, double b) { return a + b; }},
                    {BinaryOp::kSub, [](double a, double b) { return a - b; }},
                    {BinaryOp::kMul, [](double a, double b) { return a * b; }},
                    {BinaryOp::kDiv, [](double a, double b) { return a / b; }},
                    {BinaryOp::kMax, [](double a, double b) { return std::max(a, b); }},
                    {BinaryOp::kGreater, [](double a, double b) { return a > b ? 1.0 : 0.0; }}};
  for (const Op& op : ops) {
    for (const Shape& shape : {Shape{3, 5, 17}, Shape{41}, Shape{1, 1, 1}}) {
      for (Layout la : kLayouts) {
        for (Layout lb : kLayouts) {
          for (Layout lo : kOutputLayouts) {
            Tensor a = RandomInput(la, shape, dtype(), "a");
            Tensor b = RandomInput(lb, shape, dtype(), "b");
            Tensor out = Poisoned(shape, dtype(), lo);
            backend().Binary(op.op, a, b, out);
            std::vector<double> x = Values(a), y = Values(b), want(x.size());
            for (size_t i = 0; i < x.size(); ++i) want[i] = op.f(x[i], y[i]);
            ExpectNear(
                out, want, [&](size_t i) { return epsilon() * std::abs(want[i]); },
                ToString(shape));
          }
        }
      }
    }
  }
}

TEST_P(Elementwise, BinaryBroadcastsRowsAndColumns) {
  Shape shape{6, 35};
  Tensor a = RandomInput(Layout::kContiguous, shape, dtype(), "a");
  for (const Shape& small : {Shape{1, 35}, Shape{6, 1}, Shape{1, 1}}) {
    Tensor b = RandomInput(Layout::kContiguous, small, dtype(), "b").BroadcastTo(shape);
    for (bool swap : {false, true}) {
      Tensor out = Poisoned(shape, dtype());
      backend().Binary(BinaryOp::kSub, swap ? b : a, swap ? a : b, out);
      std::vector<double> x = Values(a), y = Values(b), want(x.size());
      for (size_t i = 0; i < x.size(); ++i) want[i] = swap ? y[i] - x[i] : x[i] - y[i];
      ExpectNear(
          out, want, [&](size_t i) { return epsilon() * std::abs(want[i]); }, "broadcast");
    }
  }
}

TEST_P(Elementwise, InPlace) {
  Tensor a = RandomInput(Layout::kContiguous, {100}, dtype(), "a");
  Tensor b = RandomInput(Layout::kContiguous, {100}, dtype(), "b");
  std::vector<double> x = Values(a), y = Values(b), want(100);
  for (int i = 0; i < 100; ++i) want[i] = -(x[i] * y[i]);
  backend().Binary(BinaryOp::kMul, a, b, a);
  backend().Unary(UnaryOp::kNegate, a, a);
  ExpectNear(
      a, want, [&](size_t i) { return epsilon() * std::abs(want[i]); }, "in place");
}

TEST_P(Elementwise, MaxKeepsNanOfEitherSide) {
  for (bool left : {false, true}) {
    Tensor nan = Poisoned({19}, dtype());
    Tensor one = Tensor::Full({19}, 1, dtype()), out = Tensor::Zeros({19}, dtype());
    backend().Binary(BinaryOp::kMax, left ? nan : one, left ? one : nan, out);
    for (double v : Values(out)) EXPECT_TRUE(std::isnan(v));
  }
}

TEST_P(Elementwise, Where) {
  Shape shape{4, 23};
  for (Layout lm : kLayouts) {
    for (Layout la : kLayouts) {
      for (Layout lb : kLayouts) {
        Tensor mask = RandomInput(lm, shape, dtype(), "mask");
        Tensor a = RandomInput(la, shape, dtype(), "a"), b = RandomInput(lb, shape, dtype(), "b");
        Tensor out = Poisoned(shape, dtype());
        backend().Where(mask, a, b, out);
        std::vector<double> m = Values(mask), x = Values(a), y = Values(b), want(x.size());
        for (size_t i = 0; i < x.size(); ++i) want[i] = m[i] > 0 ? x[i] : y[i];
        ExpectNear(
            out, want, [](size_t) { return 0.0; }, "where");
      }
    }
  }
}

TEST_P(Elementwise, FillAndCopyLeaveTheRestAlone) {
  Tensor whole = Tensor::Zeros({5, 40}, dtype());
  backend().Fill(whole.Slice(1, 3, 20), 2);
  backend().Copy(Tensor::Full({5, 4}, 3, dtype()), whole.Slice(1, 30, 34));
  std::vector<double> values = Values(whole);
  for (int i = 0; i < 200; ++i) {
    int c = i % 40;
    EXPECT_EQ(values[i], c >= 3 && c < 20 ? 2 : c >= 30 && c < 34 ? 3 : 0);
  }
}

TEST_P(Elementwise, CopyTransposesLargeMatrices) {
  for (const Shape& shape : {Shape{3, 70, 45}, Shape{33, 129}}) {
    Tensor x = RandomInput(Layout::kContiguous, shape, dtype(), "x").Transpose();
    for (Layout layout : kOutputLayouts) {
      Tensor out = Poisoned(x.shape(), dtype(), layout);
      backend().Copy(x, out);
      EXPECT_EQ(Values(out), Values(x));
    }
  }
}

uint16_t BFloat16Bits(double x) {
  Tensor out = Tensor::FromHost(std::vector<double>{x}, {1}, DType::kBF16);
  return *out.data<uint16_t>();
}

TEST(Conversion, BFloat16RoundsToNearestEven) {
  EXPECT_EQ(BFloat16Bits(1.0), 0x3f80);
  EXPECT_EQ(BFloat16Bits(1.0 + 1.0 / 256), 0x3f80);          // tie: down to even
  EXPECT_EQ(BFloat16Bits(1.0 + 3.0 / 256), 0x3f82);          // tie: up to even
  EXPECT_EQ(BFloat16Bits(1.0 + 1.0 / 256 + 1e-12), 0x3f81);  // would be a tie after f32
  EXPECT_EQ(BFloat16Bits(1.0 + 1.0 / 256 - 1e-12), 0x3f80);
  EXPECT_EQ(BFloat16Bits(-1e300), 0xff80);
  EXPECT_EQ(BFloat16Bits(kInf), 0x7f80);
  EXPECT_EQ(BFloat16Bits(kNan) & 0x7fff, 0x7fc0);
  EXPECT_EQ(BFloat16Bits(-0.0), 0x8000);
}

TEST(Conversion, EveryBFloat16SurvivesARoundTrip) {
  Tensor all = Tensor::Empty({65536}, DType::kBF16);
  for (int i = 0; i < 65536; ++i) all.data<uint16_t>()[i] = static_cast<uint16_t>(i);
  for (DType middle : {DType::kF32, DType::kF64}) {
    Tensor back = all.To(middle).To(DType::kBF16);
    for (int i = 0; i < 65536; ++i) {
      bool nan = (i & 0x7fff) > 0x7f80;
      ASSERT_EQ(back.data<uint16_t>()[i], nan ? i | 0x40 : i);
    }
  }
}

TEST(Conversion, IntegersAndFloats) {
  std::vector<int32_t> ints = {0, -3, 7, 1 << 24, -(1 << 30)};
  Tensor x = Tensor::FromHost(ints, {5});
  EXPECT_EQ(x.To(DType::kF32).ToInts(), ints);
  EXPECT_EQ(x.To(DType::kF64).ToInts(), ints);
  std::vector<double> odd = {2.9, -2.9, 1e20, -1e20, kNan};
  EXPECT_THAT(Tensor::FromHost(odd, {5}, DType::kF64).ToInts(),
              testing::ElementsAre(2, -2, std::numeric_limits<int32_t>::max(),
                                   std::numeric_limits<int32_t>::min(), 0));
}

}  // namespace
}  // namespace mnemo
