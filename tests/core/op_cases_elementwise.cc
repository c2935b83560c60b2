#include <cmath>

#include "src/core/ops.h"
#include "tests/core/op_cases.h"

namespace mnemo::testing {
namespace {

constexpr double kGeluScale = 0.79788456080286535588;  // sqrt(2 / pi)

double Logistic(double x) { return 1 / (1 + std::exp(-x)); }
double GeluOf(double x) {
  return 0.5 * x * (1 + std::tanh(kGeluScale * (x + 0.044715 * x * x * x)));
}
double SiluGradOf(double x) {
  const double s = Logistic(x);
  return s * (1 + x * (1 - s));
}
double GeluGradOf(double x) {
  const double t = std::tanh(kGeluScale * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * kGeluScale * (1 + 3 * 0.044715 * x * x);
}

struct Unary {
  Primitive primitive;
  Var (*run)(const Var&);
  double (*plain)(double);  // null: only its derivatives are checked
  double low, high;
};

// Values on both sides of zero but not near it, where Relu has its kink.
Tensor AwayFromZero(const Shape& shape, uint64_t seed) {
  std::vector<double> values = Uniform(shape, seed).ToDoubles();
  for (double& value : values) value += value < 0 ? -0.1 : 0.1;
  return Tensor::FromHost(values, shape, DType::kF64);
}

void AddUnary(std::vector<OpCase>& cases) {
  const Unary table[] = {
      {Primitive::kNegate, &Negate, [](double x) { return -x; }, -2, 2},
      {Primitive::kExp, &Exp, [](double x) { return std::exp(x); }, -2, 2},
      {Primitive::kLog, &Log, [](double x) { return std::log(x); }, 0.5, 2},
      {Primitive::kSqrt, &Sqrt, [](double x) { return std::sqrt(x); }, 0.5, 2},
      {Primitive::kRsqrt, &Rsqrt, [](double x) { return 1 / std::sqrt(x); }, 0.5, 2},
      {Primitive::kReciprocal, &Reciprocal, [](double x) { return 1 / x; }, 0.5, 2},
      {Primitive::kSigmoid, &Sigmoid, &Logistic, -4, 4},
      {Primitive::kTanh, &Tanh, [](double x) { return std::tanh(x); }, -3, 3},
      {Primitive::kSilu, &Silu, [](double x) { return x * Logistic(x); }, -4, 4},
      {Primitive::kSiluGrad, &SiluGrad, &SiluGradOf, -4, 4},
      {Primitive::kSiluGrad2, &SiluGrad2, nullptr, -4, 4},
      {Primitive::kGelu, &Gelu, &GeluOf, -3, 3},
      {Primitive::kGeluGrad, &GeluGrad, &GeluGradOf, -3, 3},
      {Primitive::kGeluGrad2, &GeluGrad2, nullptr, -3, 3},
  };
  for (const Unary& op : table) {
    PlainFunction expected;
    if (op.plain != nullptr) {
      expected = [plain = op.plain](const std::vector<Plain>& x) {
        std::vector<double> y;
        for (const double value : x[0].values) y.push_back(plain(value));
        return y;
      };
    }
    for (const Shape& shape : {Shape{3, 7}, Shape{}, Shape{1, 1, 5}, Shape{2, 0}}) {
      cases.push_back(
          {op.primitive,
           "shape " + ToString(shape),
           {Uniform(shape, cases.size(), op.low, op.high)},
           [run = op.run](std::span<const Var> x) -> std::vector<Var> { return {run(x[0])}; },
           expected});
    }
  }
}

void AddBinary(std::vector<OpCase>& cases) {
  struct Binary {
    Primitive primitive;
    Var (*run)(const Var&, const Var&);
    double (*plain)(double, double);
  };
  const Binary table[] = {
      {Primitive::kAdd, &Add, [](double a, double b) { return a + b; }},
      {Primitive::kSub, &Sub, [](double a, double b) { return a - b; }},
      {Primitive::kMul, &Mul, [](double a, double b) { return a * b; }},
      {Primitive::kDiv, &Div, [](double a, double b) { return a / b; }},
  };
  struct Shapes {
    Shape a, b, result;
  };
  const Shapes shapes[] = {{{3, 5}, {3, 5}, {3, 5}},       {{2, 3, 4}, {4}, {2, 3, 4}},
                           {{3, 1}, {2, 1, 5}, {2, 3, 5}}, {{}, {2, 3}, {2, 3}},
                           {{1, 1}, {1}, {1, 1}},          {{0, 3}, {1, 3}, {0, 3}}};
  for (const Binary& op : table) {
    for (const Shapes& s : shapes) {
      cases.push_back(
          {op.primitive,
           ToString(s.a) + " with " + ToString(s.b),
           {Uniform(s.a, cases.size()), Uniform(s.b, cases.size() + 7, 0.5, 2)},
           [run = op.run](std::span<const Var> x) -> std::vector<Var> { return {run(x[0], x[1])}; },
           [plain = op.plain, s](const std::vector<Plain>& x) {
             return ForEachIndex(s.result, [&](const auto& i) { return plain(x[0](i), x[1](i)); });
           },
           6});
    }
  }
}

void AddOthers(std::vector<OpCase>& cases) {
  cases.push_back({Primitive::kRelu,
                   "both sides",
                   {AwayFromZero({3, 7}, 3)},
                   [](std::span<const Var> x) -> std::vector<Var> { return {Relu(x[0])}; },
                   [](const std::vector<Plain>& x) {
                     return ForEachIndex(x[0].shape,
                                         [&](const auto& i) { return std::max(0.0, x[0](i)); });
                   }});
  cases.push_back({Primitive::kAffine,
                   "scale and shift",
                   {Uniform({3, 7}, 4)},
                   [](std::span<const Var> x) -> std::vector<Var> {
                     return {Affine(x[0], -1.5, 0.25), Scale(x[0], 3)};
                   },
                   [](const std::vector<Plain>& x) {
                     return ForEachIndex(x[0].shape,
                                         [&](const auto& i) { return -1.5 * x[0](i) + 0.25; });
                   }});
  cases.push_back({Primitive::kMul,
                   "square",
                   {Uniform({3, 7}, 5)},
                   [](std::span<const Var> x) -> std::vector<Var> { return {Square(x[0])}; },
                   [](const std::vector<Plain>& x) {
                     return ForEachIndex(x[0].shape,
                                         [&](const auto& i) { return x[0](i) * x[0](i); });
                   }});
  const Shape shapes[][2] = {{{3, 5}, {3, 5}}, {{}, {3, 5}}, {{3, 1}, {1, 5}}};
  for (const auto& [a, b] : shapes) {
    const std::vector<double> flags = {1, 0, 0.5, -1, 2};
    cases.push_back({Primitive::kWhere,
                     ToString(a) + " or " + ToString(b),
                     {Uniform(a, 6), Uniform(b, 7)},
                     [flags](std::span<const Var> x) -> std::vector<Var> {
                       const Tensor mask =
                           Tensor::FromHost(flags, {5}, x[0].dtype(), x[0].device());
                       return {Where(mask, x[0], x[1])};
                     },
                     [flags](const std::vector<Plain>& x) {
                       return ForEachIndex({3, 5}, [&](const auto& i) {
                         return flags[i[1]] > 0 ? x[0](i) : x[1](i);
                       });
                     },
                     15});
  }
  // Through f32 and back: a staircase of steps of about 1e-7, seen with a step of 1e-3.
  cases.push_back({Primitive::kCast,
                   "to f32 and back",
                   {Uniform({3, 7}, 8)},
                   [](std::span<const Var> x) -> std::vector<Var> {
                     return {Cast(Cast(x[0], DType::kF32), DType::kF64)};
                   },
                   [](const std::vector<Plain>& x) {
                     return ForEachIndex(x[0].shape, [&](const auto& i) {
                       return static_cast<double>(static_cast<float>(x[0](i)));
                     });
                   },
                   1,
                   1e-3});
}

}  // namespace

std::vector<OpCase> ElementwiseCases() {
  std::vector<OpCase> cases;
  AddUnary(cases);
  AddBinary(cases);
  AddOthers(cases);
  return cases;
}

}  // namespace mnemo::testing
