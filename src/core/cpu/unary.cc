#include "src/core/cpu/cpu_backend.h"
#include "src/core/cpu/strided_loop.h"
#include "src/core/cpu/vector_math.h"

namespace mnemo {
namespace {

template <typename T, typename F>
void Map(const Tensor& x, const Tensor& out, F f) {
  StridedLoop<2> loop({&out, &x});
  int64_t out_stride = loop.inner_stride(0), x_stride = loop.inner_stride(1);
  loop.Run([&](const std::array<int64_t, 2>& offsets, int64_t n) {
    T* o = out.data<T>() + offsets[0];
    const T* a = x.data<T>() + offsets[1];
    if (out_stride == 1 && x_stride == 1) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) o[i] = f(a[i]);
    } else if (x_stride == 0) {
      T value = f(*a);
      for (int64_t i = 0; i < n; ++i) o[i * out_stride] = value;
    } else {
      for (int64_t i = 0; i < n; ++i) o[i * out_stride] = f(a[i * x_stride]);
    }
  });
}

template <typename T>
MNEMO_INLINE T Clamp(T x, T limit) {  // keeps NaN
  x = x > limit ? limit : x;
  return x < -limit ? -limit : x;
}

// The logistic function and its slope s (1 - s), neither with cancellation.
template <typename T>
struct Gate {
  T s, slope;
  MNEMO_INLINE explicit Gate(T z) {
    T e = Exp(-Absolute(z)), upper = T(1) / (T(1) + e);
    s = z < T(0) ? e * upper : upper;
    slope = e * upper * upper;
  }
};

// Beyond these the gate is 0 or 1 to the last bit and its slope 0; clamping keeps 0 * infinity out.
constexpr double kSiluLimit = 800, kGeluLimit = 40;

template <typename T>
MNEMO_INLINE T SiluGrad(T x) {
  x = Clamp(x, T(kSiluLimit));
  Gate<T> gate(x);
  return Fma(x, gate.slope, gate.s);
}

template <typename T>
MNEMO_INLINE T SiluGrad2(T x) {
  x = Clamp(x, T(kSiluLimit));
  Gate<T> gate(x);
  return gate.slope * Fma(x, Fma(T(-2), gate.s, T(1)), T(2));
}

// GELU(x) = x sigmoid(z(x)) with z = 2 sqrt(2 / pi) (x + 0.044715 x^3): the tanh form without its
// cancellation.
constexpr double kGeluScale = 1.5957691216057308;
constexpr double kGeluCubic = kGeluScale * 0.044715;

template <typename T>
MNEMO_INLINE T GeluArgument(T x) {
  return x * Fma(T(kGeluCubic), x * x, T(kGeluScale));
}

template <typename T>
MNEMO_INLINE T GeluArgumentGrad(T x) {
  return Fma(T(3 * kGeluCubic), x * x, T(kGeluScale));
}

template <typename T>
MNEMO_INLINE T GeluGrad(T x) {
  x = Clamp(x, T(kGeluLimit));
  Gate<T> gate(GeluArgument(x));
  return Fma(x * gate.slope, GeluArgumentGrad(x), gate.s);
}

template <typename T>
MNEMO_INLINE T GeluGrad2(T x) {
  x = Clamp(x, T(kGeluLimit));
  Gate<T> gate(GeluArgument(x));
  T z1 = GeluArgumentGrad(x), z2 = T(6 * kGeluCubic) * x;
  T bend = Fma(z1 * z1, Fma(T(-2), gate.s, T(1)), z2);
  return gate.slope * Fma(x, bend, z1 + z1);
}

template <typename T>
void UnaryOf(UnaryOp op, const Tensor& x, const Tensor& out) {
  switch (op) {
    case UnaryOp::kNegate:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return -a; });
    case UnaryOp::kExp:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return Exp(a); });
    case UnaryOp::kLog:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return Log(a); });
    case UnaryOp::kSqrt:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return SquareRoot(a); });
    case UnaryOp::kRsqrt:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return T(1) / SquareRoot(a); });
    case UnaryOp::kReciprocal:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return T(1) / a; });
    case UnaryOp::kSigmoid:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return Sigmoid(a); });
    case UnaryOp::kTanh:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return Tanh(a); });
    case UnaryOp::kRelu:
      return Map<T>(x, out,
                    [](T a) MNEMO_INLINE_LAMBDA { return a <= T(0) ? T(0) : a; });  // keeps NaN
    case UnaryOp::kStep:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return a > T(0) ? T(1) : T(0); });
    case UnaryOp::kSilu:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return a * Sigmoid(a); });
    case UnaryOp::kSiluGrad:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return SiluGrad(a); });
    case UnaryOp::kSiluGrad2:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return SiluGrad2(a); });
    case UnaryOp::kGelu:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return a * Sigmoid(GeluArgument(a)); });
    case UnaryOp::kGeluGrad:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return GeluGrad(a); });
    case UnaryOp::kGeluGrad2:
      return Map<T>(x, out, [](T a) MNEMO_INLINE_LAMBDA { return GeluGrad2(a); });
  }
  MNEMO_CHECK(false, "unary op {}", static_cast<int>(op));
}

}  // namespace

void CpuDevice::Unary(UnaryOp op, const Tensor& x, const Tensor& out) {
  MNEMO_CHECK(x.dtype() == out.dtype());
  DispatchFloat(out.dtype(), [&](auto zero) { UnaryOf<decltype(zero)>(op, x, out); });
}

void CpuDevice::Affine(const Tensor& x, double scale, double shift, const Tensor& out) {
  MNEMO_CHECK(x.dtype() == out.dtype());
  DispatchFloat(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T s = static_cast<T>(scale), t = static_cast<T>(shift);
    Map<T>(x, out, [s, t](T a) MNEMO_INLINE_LAMBDA { return Fma(s, a, t); });
  });
}

}  // namespace mnemo
