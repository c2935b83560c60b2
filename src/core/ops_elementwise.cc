#include <algorithm>

#include "src/core/ops_internal.h"

namespace mnemo {
namespace internal {

Shape BroadcastShape(const Shape& a, const Shape& b, const char* op) {
  const size_t rank = std::max(a.size(), b.size());
  Shape result(rank, 1);
  for (size_t i = 0; i < rank; ++i) {
    const int64_t da = i < a.size() ? a[a.size() - 1 - i] : 1;
    const int64_t db = i < b.size() ? b[b.size() - 1 - i] : 1;
    Require(da == db || da == 1 || db == 1, "{}: shapes {} and {} do not broadcast", op, a, b);
    result[rank - 1 - i] = da == 1 ? db : da;
  }
  return result;
}

void RequireSameType(const Var& a, const Var& b, const char* op) {
  Require(a.dtype() == b.dtype() && a.device() == b.device(), "{}: {} and {}, or two devices", op,
          Name(a.dtype()), Name(b.dtype()));
}

}  // namespace internal

namespace {

using internal::BackendOf;
using internal::BroadcastShape;
using internal::EmptyLike;
using internal::RecordOne;
using internal::RequireSameType;

Tensor ApplyUnary(UnaryOp op, const Var& x) {
  Tensor out = EmptyLike(x.value(), x.shape());
  BackendOf(x.value()).Unary(op, x.value(), out);
  return out;
}

// A unary op whose derivative, a function of its input, is another op.
Var UnaryOfInput(Primitive primitive, UnaryOp op, const Var& x, Var (*derivative)(const Var&)) {
  return RecordOne(primitive, {x}, ApplyUnary(op, x), {.inputs = 1}, [derivative](VjpContext& c) {
    c.Set(0, Mul(c.grad(), derivative(c.input(0))));
  });
}

// A unary op whose gradient is cheapest from its output.
template <typename F>
Var UnaryOfOutput(Primitive primitive, UnaryOp op, const Var& x, F gradient) {
  return RecordOne(primitive, {x}, ApplyUnary(op, x), {.outputs = 1},
                   [gradient](VjpContext& c) { c.Set(0, gradient(c.grad(), c.output(0))); });
}

Tensor ApplyBinary(BinaryOp op, const Var& a, const Var& b, const char* name) {
  RequireSameType(a, b, name);
  const Shape shape = BroadcastShape(a.shape(), b.shape(), name);
  Tensor out = EmptyLike(a.value(), shape);
  BackendOf(out).Binary(op, a.value().BroadcastTo(shape), b.value().BroadcastTo(shape), out);
  return out;
}

// SiLU''' and GELU''' in basic operations: they occur in third derivatives only.
Var SiluGrad3(const Var& x) {
  // With s = sigmoid(x), d = s (1 - s): silu'' = d (2 + x (1 - 2 s)), so
  // silu''' = d (1 - 2 s) (3 + x (1 - 2 s)) - 2 x d^2.
  const Var s = Sigmoid(x);
  const Var d = Mul(s, Affine(s, -1, 1));
  const Var t = Affine(s, -2, 1);
  return Sub(Mul(Mul(d, t), Affine(Mul(x, t), 1, 3)), Scale(Mul(x, Square(d)), 2));
}

Var GeluGrad3(const Var& x) {
  // gelu = x/2 (1 + t), t = tanh(u), u = c (x + a x^3). With t' = (1 - t^2) u':
  // gelu''' = (3 t'' + x t''') / 2.
  constexpr double kC = 0.79788456080286535588, kA = 0.044715;
  const Var x2 = Square(x);
  const Var t = Tanh(Mul(x, Affine(x2, kC * kA, kC)));
  const Var u1 = Affine(x2, 3 * kA * kC, kC), u2 = Scale(x, 6 * kA * kC);
  const Var e = Affine(Square(t), -1, 1);  // 1 - t^2
  const Var t1 = Mul(e, u1);
  const Var t2 = Sub(Mul(e, u2), Scale(Mul(Mul(t, t1), u1), 2));
  // t''' from t'' = e u'' - 2 t t' u'; e' = -2 t t', u''' = 6 a c.
  const Var t3 = Sub(Sub(Scale(e, 6 * kA * kC), Scale(Mul(Mul(t, t1), u2), 4)),
                     Scale(Mul(u1, Add(Square(t1), Mul(t, t2))), 2));
  return Scale(Add(Scale(t2, 3), Mul(x, t3)), 0.5);
}

}  // namespace

Var Negate(const Var& x) {
  return RecordOne(Primitive::kNegate, {x}, ApplyUnary(UnaryOp::kNegate, x), {},
                   [](VjpContext& c) { c.Set(0, Negate(c.grad())); });
}

Var Exp(const Var& x) {
  return UnaryOfOutput(Primitive::kExp, UnaryOp::kExp, x,
                       [](const Var& g, const Var& y) { return Mul(g, y); });
}

Var Log(const Var& x) {
  return RecordOne(Primitive::kLog, {x}, ApplyUnary(UnaryOp::kLog, x), {.inputs = 1},
                   [](VjpContext& c) { c.Set(0, Div(c.grad(), c.input(0))); });
}

Var Sqrt(const Var& x) {
  return UnaryOfOutput(Primitive::kSqrt, UnaryOp::kSqrt, x,
                       [](const Var& g, const Var& y) { return Scale(Div(g, y), 0.5); });
}

Var Rsqrt(const Var& x) {
  return UnaryOfOutput(Primitive::kRsqrt, UnaryOp::kRsqrt, x, [](const Var& g, const Var& y) {
    return Scale(Mul(g, Mul(y, Square(y))), -0.5);
  });
}

Var Reciprocal(const Var& x) {
  return UnaryOfOutput(Primitive::kReciprocal, UnaryOp::kReciprocal, x,
                       [](const Var& g, const Var& y) { return Negate(Mul(g, Square(y))); });
}

Var Sigmoid(const Var& x) {
  return UnaryOfOutput(Primitive::kSigmoid, UnaryOp::kSigmoid, x,
                       [](const Var& g, const Var& y) { return Mul(g, Mul(y, Affine(y, -1, 1))); });
}

Var Tanh(const Var& x) {
  return UnaryOfOutput(Primitive::kTanh, UnaryOp::kTanh, x,
                       [](const Var& g, const Var& y) { return Mul(g, Affine(Square(y), -1, 1)); });
}

Var Relu(const Var& x) { return UnaryOfInput(Primitive::kRelu, UnaryOp::kRelu, x, &Step); }
Var Step(const Var& x) { return Var(ApplyUnary(UnaryOp::kStep, x)); }

Var Silu(const Var& x) { return UnaryOfInput(Primitive::kSilu, UnaryOp::kSilu, x, &SiluGrad); }
Var SiluGrad(const Var& x) {
  return UnaryOfInput(Primitive::kSiluGrad, UnaryOp::kSiluGrad, x, &SiluGrad2);
}
Var SiluGrad2(const Var& x) {
  return UnaryOfInput(Primitive::kSiluGrad2, UnaryOp::kSiluGrad2, x, &SiluGrad3);
}
Var Gelu(const Var& x) { return UnaryOfInput(Primitive::kGelu, UnaryOp::kGelu, x, &GeluGrad); }
Var GeluGrad(const Var& x) {
  return UnaryOfInput(Primitive::kGeluGrad, UnaryOp::kGeluGrad, x, &GeluGrad2);
}
Var GeluGrad2(const Var& x) {
  return UnaryOfInput(Primitive::kGeluGrad2, UnaryOp::kGeluGrad2, x, &GeluGrad3);
}

Var Affine(const Var& x, double scale, double shift) {
  Tensor out = EmptyLike(x.value(), x.shape());
  BackendOf(out).Affine(x.value(), scale, shift, out);
  return RecordOne(Primitive::kAffine, {x}, std::move(out), {},
                   [scale](VjpContext& c) { c.Set(0, Affine(c.grad(), scale, 0)); });
}

Var Square(const Var& x) { return Mul(x, x); }

Var Cast(const Var& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const DType from = x.dtype();
  return RecordOne(Primitive::kCast, {x}, x.value().To(dtype), {},
                   [from](VjpContext& c) { c.Set(0, Cast(c.grad(), from)); });
}

Var Add(const Var& a, const Var& b) {
  return RecordOne(Primitive::kAdd, {a, b}, ApplyBinary(BinaryOp::kAdd, a, b, "add"), {},
                   [](VjpContext& c) {
                     if (c.needs(0)) c.Set(0, SumTo(c.grad(), c.input_shape(0)));
                     if (c.needs(1)) c.Set(1, SumTo(c.grad(), c.input_shape(1)));
                   });
}

Var Sub(const Var& a, const Var& b) {
  return RecordOne(Primitive::kSub, {a, b}, ApplyBinary(BinaryOp::kSub, a, b, "sub"), {},
                   [](VjpContext& c) {
                     if (c.needs(0)) c.Set(0, SumTo(c.grad(), c.input_shape(0)));
                     if (c.needs(1)) c.Set(1, Negate(SumTo(c.grad(), c.input_shape(1))));
                   });
}

Var Mul(const Var& a, const Var& b) {
  const Saves saves{.inputs = (a.tracked() ? 2u : 0u) | (b.tracked() ? 1u : 0u)};
  return RecordOne(Primitive::kMul, {a, b}, ApplyBinary(BinaryOp::kMul, a, b, "mul"), saves,
                   [](VjpContext& c) {
                     const Var g = c.grad();
                     if (c.needs(0)) c.Set(0, SumTo(Mul(g, c.input(1)), c.input_shape(0)));
                     if (c.needs(1)) c.Set(1, SumTo(Mul(g, c.input(0)), c.input_shape(1)));
                   });
}

Var Div(const Var& a, const Var& b) {
  return RecordOne(Primitive::kDiv, {a, b}, ApplyBinary(BinaryOp::kDiv, a, b, "div"),
                   {.inputs = 2, .outputs = 1}, [](VjpContext& c) {
                     const Var scaled = Div(c.grad(), c.input(1));
                     if (c.needs(0)) c.Set(0, SumTo(scaled, c.input_shape(0)));
                     if (c.needs(1)) {
                       c.Set(1, Negate(SumTo(Mul(scaled, c.output(0)), c.input_shape(1))));
                     }
                   });
}

Var Where(const Tensor& mask, const Var& a, const Var& b) {
  RequireSameType(a, b, "where");
  const Shape shape =
      BroadcastShape(mask.shape(), BroadcastShape(a.shape(), b.shape(), "where"), "where");
  Tensor out = EmptyLike(a.value(), shape);
  BackendOf(out).Where(mask.BroadcastTo(shape), a.value().BroadcastTo(shape),
                       b.value().BroadcastTo(shape), out);
  return RecordOne(Primitive::kWhere, {a, b}, std::move(out), {}, [mask](VjpContext& c) {
    const Var g = c.grad();
    const Var zero(Tensor::Zeros({}, g.dtype(), g.device()));
    if (c.needs(0)) c.Set(0, SumTo(Where(mask, g, zero), c.input_shape(0)));
    if (c.needs(1)) c.Set(1, SumTo(Where(mask, zero, g), c.input_shape(1)));
  });
}

}  // namespace mnemo
