#include "src/core/cuda/loop.cuh"

namespace mnemo::cuda {
namespace {

template <typename C>
__device__ __forceinline__ C Clamp(C x, C limit) {  // keeps NaN
  x = x > limit ? limit : x;
  return x < -limit ? -limit : x;
}

template <typename C>
__device__ __forceinline__ C Sigmoid(C x) {
  return C(1) / (C(1) + exp(-x));
}

// The logistic function and its slope s (1 - s), neither with cancellation.
template <typename C>
struct Gate {
  C s, slope;
  __device__ __forceinline__ explicit Gate(C z) {
    const C e = exp(-fabs(z)), upper = C(1) / (C(1) + e);
    s = z < C(0) ? e * upper : upper;
    slope = e * upper * upper;
  }
};

// Beyond these the gate is 0 or 1 to the last bit and its slope 0; clamping keeps 0 * infinity out.
constexpr double kSiluLimit = 800, kGeluLimit = 40;

template <typename C>
__device__ __forceinline__ C SiluGrad(C x) {
  x = Clamp(x, C(kSiluLimit));
  const Gate<C> gate(x);
  return fma(x, gate.slope, gate.s);
}

template <typename C>
__device__ __forceinline__ C SiluGrad2(C x) {
  x = Clamp(x, C(kSiluLimit));
  const Gate<C> gate(x);
  return gate.slope * fma(x, fma(C(-2), gate.s, C(1)), C(2));
}

// GELU(x) = x sigmoid(z(x)) with z = 2 sqrt(2 / pi) (x + 0.044715 x^3): the tanh form without its
// cancellation.
constexpr double kGeluScale = 1.5957691216057308;
constexpr double kGeluCubic = kGeluScale * 0.044715;

template <typename C>
__device__ __forceinline__ C GeluArgument(C x) {
  return x * fma(C(kGeluCubic), x * x, C(kGeluScale));
}

template <typename C>
__device__ __forceinline__ C GeluArgumentGrad(C x) {
  return fma(C(3 * kGeluCubic), x * x, C(kGeluScale));
}

template <typename C>
__device__ __forceinline__ C GeluGrad(C x) {
  x = Clamp(x, C(kGeluLimit));
  const Gate<C> gate(GeluArgument(x));
  return fma(x * gate.slope, GeluArgumentGrad(x), gate.s);
}

template <typename C>
__device__ __forceinline__ C GeluGrad2(C x) {
  x = Clamp(x, C(kGeluLimit));
  const Gate<C> gate(GeluArgument(x));
  const C z1 = GeluArgumentGrad(x), z2 = C(6 * kGeluCubic) * x;
  const C bend = fma(z1 * z1, fma(C(-2), gate.s, C(1)), z2);
  return gate.slope * fma(x, bend, z1 + z1);
}

template <typename T>
struct UnaryOf {
  UnaryOp op;

  template <int V, typename F>
  static __device__ __forceinline__ void Each(Pack<T, V>& out, const Pack<T, V>& x, F f) {
#pragma unroll
    for (int i = 0; i < V; ++i) out.at[i] = Convert<T>(f(Value(x.at[i])));
  }

  template <int V>
  __device__ __forceinline__ void operator()(Pack<T, V>& out, const Pack<T, V>& x) const {
    using C = Compute<T>;
    switch (op) {  // the same for all threads
      case UnaryOp::kNegate:
        return Each(out, x, [](C a) { return -a; });
      case UnaryOp::kExp:
        return Each(out, x, [](C a) { return exp(a); });
      case UnaryOp::kLog:
        return Each(out, x, [](C a) { return log(a); });
      case UnaryOp::kSqrt:
        return Each(out, x, [](C a) { return sqrt(a); });
      case UnaryOp::kRsqrt:
        return Each(out, x, [](C a) { return C(1) / sqrt(a); });
      case UnaryOp::kReciprocal:
        return Each(out, x, [](C a) { return C(1) / a; });
      case UnaryOp::kSigmoid:
        return Each(out, x, [](C a) { return Sigmoid(a); });
      case UnaryOp::kTanh:
        return Each(out, x, [](C a) { return tanh(a); });
      case UnaryOp::kRelu:
        return Each(out, x, [](C a) { return a <= C(0) ? C(0) : a; });  // keeps NaN
      case UnaryOp::kStep:
        return Each(out, x, [](C a) { return a > C(0) ? C(1) : C(0); });
      case UnaryOp::kSilu:
        return Each(out, x, [](C a) { return a * Sigmoid(a); });
      case UnaryOp::kSiluGrad:
        return Each(out, x, [](C a) { return SiluGrad(a); });
      case UnaryOp::kSiluGrad2:
        return Each(out, x, [](C a) { return SiluGrad2(a); });
      case UnaryOp::kGelu:
        return Each(out, x, [](C a) { return a * Sigmoid(GeluArgument(a)); });
      case UnaryOp::kGeluGrad:
        return Each(out, x, [](C a) { return GeluGrad(a); });
      case UnaryOp::kGeluGrad2:
        return Each(out, x, [](C a) { return GeluGrad2(a); });
    }
  }
};

}  // namespace

void Unary(const Launch& launch, UnaryOp op, const View& x, const View& out) {
  DispatchFloat(out.dtype, [&](auto zero) {
    using T = decltype(zero);
    Loop<kWidth<T>, T, T>(launch, UnaryOf<T>{op}, out, x);
  });
}

}  // namespace mnemo::cuda
