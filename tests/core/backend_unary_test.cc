#include "tests/core/backend_test_util.h"

namespace mnemo {
namespace {

class Unary : public BackendTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, Unary, testing::Values(DType::kF32, DType::kF64), DTypeName);

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

using Real = long double;
Real SigmoidOf(Real x) { return 1 / (1 + std::exp(-x)); }

// GELU through z with x sigmoid(z) = x (1 + tanh(z / 2)) / 2.
struct Gelu {
  Real s, z1, z2;
  explicit Gelu(Real x) {
    Real c = 2 * std::sqrt(2 / std::acos(Real(-1)));
    s = SigmoidOf(c * (x + Real(0.044715) * x * x * x));
    z1 = c * (1 + 3 * Real(0.044715) * x * x);
    z2 = c * 6 * Real(0.044715) * x;
  }
};

Real Reference(UnaryOp op, Real x) {
  Real s = SigmoidOf(x);
  Gelu g(x);
  Real slope = g.s * (1 - g.s);
  switch (op) {
    case UnaryOp::kNegate:
      return -x;
    case UnaryOp::kExp:
      return std::exp(x);
    case UnaryOp::kLog:
      return std::log(x);
    case UnaryOp::kSqrt:
      return std::sqrt(x);
    case UnaryOp::kRsqrt:
      return 1 / std::sqrt(x);
    case UnaryOp::kReciprocal:
      return 1 / x;
    case UnaryOp::kSigmoid:
      return s;
    case UnaryOp::kTanh:
      return std::tanh(x);
    case UnaryOp::kRelu:
      return x > 0 ? x : 0;
    case UnaryOp::kStep:
      return x > 0;
    case UnaryOp::kSilu:
      return x * s;
    case UnaryOp::kSiluGrad:
      return s + x * s * (1 - s);
    case UnaryOp::kSiluGrad2:
      return s * (1 - s) * (2 + x * (1 - 2 * s));
    case UnaryOp::kGelu:
      return x * g.s;
    case UnaryOp::kGeluGrad:
      return g.s + x * slope * g.z1;
    case UnaryOp::kGeluGrad2:
      return 2 * slope * g.z1 + x * (slope * (1 - 2 * g.s) * g.z1 * g.z1 + slope * g.z2);
  }
  return 0;
}

constexpr UnaryOp kOps[] = {
    UnaryOp::kNegate,    UnaryOp::kExp,        UnaryOp::kLog,      UnaryOp::kSqrt,
    UnaryOp::kRsqrt,     UnaryOp::kReciprocal, UnaryOp::kSigmoid,  UnaryOp::kTanh,
    UnaryOp::kRelu,      UnaryOp::kStep,       UnaryOp::kSilu,     UnaryOp::kSiluGrad,
    UnaryOp::kSiluGrad2, UnaryOp::kGelu,       UnaryOp::kGeluGrad, UnaryOp::kGeluGrad2};

bool NeedsPositive(UnaryOp op) {
  return op == UnaryOp::kLog || op == UnaryOp::kSqrt || op == UnaryOp::kRsqrt;
}

// Elementary functions: a few units in the last place. The gates lose what 1 - s and the argument
// z(x) lose: an error relative to 1, times the polynomial in x that multiplies it.
double Tolerance(UnaryOp op, DType dtype, double x, double want) {
  double eps = Epsilon(dtype), size = std::abs(x);
  switch (op) {
    case UnaryOp::kNegate:
    case UnaryOp::kRelu:
    case UnaryOp::kStep:
      return 0;
    case UnaryOp::kSqrt:
    case UnaryOp::kReciprocal:
    case UnaryOp::kExp:
    case UnaryOp::kLog:
    case UnaryOp::kTanh:
    case UnaryOp::kRsqrt:
      return 2 * eps * std::abs(want) + Tiny(dtype);
    case UnaryOp::kSigmoid:
    case UnaryOp::kSilu:
      return 4 * eps * std::abs(want) + Tiny(dtype);
    case UnaryOp::kSiluGrad:
    case UnaryOp::kSiluGrad2:
      return 4 * eps * (1 + size);
    default:
      return 4 * eps * (1 + size) * (1 + std::min(size, 8.0));
  }
}

TEST_P(Unary, MatchesReferenceOverTheRange) {
  for (UnaryOp op : kOps) {
    int64_t n = 20011;
    RandomStream stream(3, static_cast<uint64_t>(op), "range");
    Tensor x = MakeView(Layout::kContiguous, {n}, dtype(), [&](int64_t i) {
      double v = i % 2 == 0 ? 3 * stream.Normal(i) : 80 * (2 * stream.Uniform(i) - 1);
      if (i % 5 == 0) v = std::ldexp(v, -static_cast<int>(stream.Below(i, 60)));
      return NeedsPositive(op) ? std::abs(v) : v;
    });
    Tensor out = Poisoned({n}, dtype());
    backend().Unary(op, x, out);
    std::vector<double> in = Values(x), want(n);
    for (int64_t i = 0; i < n; ++i) want[i] = static_cast<double>(Reference(op, in[i]));
    ExpectNear(
        out, want, [&](size_t i) { return Tolerance(op, dtype(), in[i], want[i]); },
        fmt::format("op {}", static_cast<int>(op)));
  }
}

TEST_P(Unary, ExpCoversItsWholeRange) {
  double low = dtype() == DType::kF32 ? -110 : -760, high = dtype() == DType::kF32 ? 92 : 720;
  int64_t n = 40000;
  Tensor x = MakeView(Layout::kContiguous, {n}, dtype(),
                      [&](int64_t i) { return low + (high - low) * i / (n - 1); });
  Tensor out = Poisoned({n}, dtype());
  backend().Unary(UnaryOp::kExp, x, out);
  std::vector<double> in = Values(x), want(n);
  double step = dtype() == DType::kF32 ? std::numeric_limits<float>::denorm_min()
                                       : std::numeric_limits<double>::denorm_min();
  for (int64_t i = 0; i < n; ++i) {
    Real exact = std::exp(static_cast<Real>(in[i]));
    want[i] = dtype() == DType::kF32 ? static_cast<float>(exact) : static_cast<double>(exact);
  }
  ExpectNear(
      out, want, [&](size_t i) { return 2 * epsilon() * want[i] + step; }, "exp");
}

TEST_P(Unary, LogOfSubnormals) {
  double smallest = dtype() == DType::kF32 ? std::numeric_limits<float>::denorm_min()
                                           : std::numeric_limits<double>::denorm_min();
  Tensor x = MakeView(Layout::kContiguous, {40}, dtype(),
                      [&](int64_t i) { return smallest * (1 + 3 * i); });
  Tensor out = Poisoned({40}, dtype());
  backend().Unary(UnaryOp::kLog, x, out);
  std::vector<double> in = Values(x), want(40);
  for (int i = 0; i < 40; ++i) want[i] = static_cast<double>(std::log(Real(in[i])));
  ExpectNear(
      out, want, [&](size_t i) { return 2 * epsilon() * std::abs(want[i]); }, "log");
}

TEST_P(Unary, HandlesEveryLayout) {
  for (UnaryOp op : {UnaryOp::kSiluGrad, UnaryOp::kTanh}) {
    for (const Shape& shape : {Shape{3, 5, 7}, Shape{1, 1}, Shape{37}, Shape{2, 1, 33}}) {
      for (Layout in_layout : kLayouts) {
        for (Layout out_layout : kOutputLayouts) {
          Tensor x = RandomInput(in_layout, shape, dtype(), "x");
          Tensor out = Poisoned(shape, dtype(), out_layout);
          backend().Unary(op, x, out);
          std::vector<double> in = Values(x), want(in.size());
          for (size_t i = 0; i < in.size(); ++i)
            want[i] = static_cast<double>(Reference(op, in[i]));
          ExpectNear(
              out, want, [&](size_t i) { return Tolerance(op, dtype(), in[i], want[i]); },
              ToString(shape));
        }
      }
    }
  }
}

// The same value everywhere gives the same bits everywhere: in the vector part of a loop, in its
// tail, and through strides.
TEST_P(Unary, ValueDoesNotDependOnPosition) {
  for (UnaryOp op : kOps) {
    for (double value : {0.3, -1.7, 5.9, 1e-3, 40.0}) {
      if (NeedsPositive(op)) value = std::abs(value);
      Tensor x = MakeView(Layout::kContiguous, {67}, dtype(), [&](int64_t) { return value; });
      Tensor strided =
          MakeView(Layout::kContiguous, {67, 2}, dtype(), [&](int64_t) { return value; })
              .Slice(1, 0, 1)
              .View({67});
      Tensor out = Poisoned({67}, dtype()), out2 = Poisoned({67}, dtype());
      backend().Unary(op, x, out);
      backend().Unary(op, strided, out2);
      std::vector<double> values = Values(out);
      for (double v : values) ASSERT_EQ(v, values[0]) << static_cast<int>(op);
      ASSERT_EQ(values, Values(out2)) << static_cast<int>(op);
    }
  }
}

struct Special {
  UnaryOp op;
  double x, want;
};

TEST_P(Unary, SpecialValues) {
  std::vector<Special> cases = {
      {UnaryOp::kExp, kInf, kInf},
      {UnaryOp::kExp, -kInf, 0},
      {UnaryOp::kExp, 0, 1},
      {UnaryOp::kLog, 0, -kInf},
      {UnaryOp::kLog, -0.0, -kInf},
      {UnaryOp::kLog, -1, kNan},
      {UnaryOp::kLog, -kInf, kNan},
      {UnaryOp::kLog, kInf, kInf},
      {UnaryOp::kLog, 1, 0},
      {UnaryOp::kSqrt, -1, kNan},
      {UnaryOp::kSqrt, kInf, kInf},
      {UnaryOp::kRsqrt, 0, kInf},
      {UnaryOp::kRsqrt, kInf, 0},
      {UnaryOp::kReciprocal, 0, kInf},
      {UnaryOp::kReciprocal, -kInf, 0},
      {UnaryOp::kSigmoid, kInf, 1},
      {UnaryOp::kSigmoid, -kInf, 0},
      {UnaryOp::kTanh, kInf, 1},
      {UnaryOp::kTanh, -kInf, -1},
      {UnaryOp::kRelu, -kInf, 0},
      {UnaryOp::kRelu, kInf, kInf},
      {UnaryOp::kStep, kNan, 0},
      {UnaryOp::kStep, kInf, 1},
      {UnaryOp::kSilu, kInf, kInf},
      {UnaryOp::kSilu, -kInf, kNan},
      {UnaryOp::kNegate, kInf, -kInf},
      {UnaryOp::kGelu, -1e4, 0},
      {UnaryOp::kGeluGrad, 1e4, 1},
      {UnaryOp::kGeluGrad2, -1e30, 0},
      {UnaryOp::kSiluGrad, 1e30, 1},
      {UnaryOp::kSiluGrad, kInf, 1},
      {UnaryOp::kSiluGrad, -kInf, 0},
      {UnaryOp::kSiluGrad2, kInf, 0},
      {UnaryOp::kGeluGrad, -kInf, 0},
      {UnaryOp::kGeluGrad2, kInf, 0},
  };
  for (UnaryOp op : kOps) {
    if (op != UnaryOp::kStep) cases.push_back({op, kNan, kNan});
  }
  for (const Special& c : cases) {
    Tensor x = MakeView(Layout::kContiguous, {19}, dtype(), [&](int64_t) { return c.x; });
    Tensor out = Poisoned({19}, dtype());
    if (std::isnan(c.want)) backend().Fill(out, 1);
    backend().Unary(c.op, x, out);
    ExpectNear(
        out, std::vector<double>(19, c.want), [](size_t) { return 0.0; },
        fmt::format("op {} at {}", static_cast<int>(c.op), c.x));
  }
}

}  // namespace
}  // namespace mnemo
