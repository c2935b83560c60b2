// Elementary functions that the compiler can vectorise inside any loop, for float and double. They
// are plain arithmetic without branches or calls, so that an element's value does not depend on
// whether it fell into the vector part of a loop or into its tail, and within about 2 units in the
// last place. Infinities and NaN follow IEEE rules.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

// A loop is vectorised only if everything in it is inlined, however long.
#define MNEMO_INLINE [[gnu::always_inline]] inline
#define MNEMO_INLINE_LAMBDA __attribute__((always_inline))

namespace mnemo {

MNEMO_INLINE float Fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
MNEMO_INLINE double Fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
MNEMO_INLINE float SquareRoot(float x) { return __builtin_sqrtf(x); }
MNEMO_INLINE double SquareRoot(double x) { return __builtin_sqrt(x); }
MNEMO_INLINE float Absolute(float x) { return __builtin_fabsf(x); }
MNEMO_INLINE double Absolute(double x) { return __builtin_fabs(x); }
MNEMO_INLINE float WithSignOf(float x, float sign) { return __builtin_copysignf(x, sign); }
MNEMO_INLINE double WithSignOf(double x, double sign) { return __builtin_copysign(x, sign); }

namespace internal {

template <typename T>
struct FloatFormat;

template <>
struct FloatFormat<float> {
  using Bits = uint32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 127;
  static constexpr float kMagic = 0x1.8p23f;  // adding it rounds to an integer, in the low bits
  static constexpr float kLn2High = 0x1.62e430p-1f, kLn2Low = -0x1.05c610p-29f;
  static constexpr float kExpLow = -104, kExpHigh = 89;  // exp is 0 below and infinite above
  static constexpr int kExpTerms = 7, kLogTerms = 5;
  static constexpr float kTanhLimit = 10;  // tanh is 1 from here on
};

template <>
struct FloatFormat<double> {
  using Bits = uint64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr double kMagic = 0x1.8p52;
  static constexpr double kLn2High = 0x1.62e42fefa39efp-1, kLn2Low = 0x1.abc9e3b39803fp-56;
  static constexpr double kExpLow = -746, kExpHigh = 710;
  static constexpr int kExpTerms = 13, kLogTerms = 10;
  static constexpr double kTanhLimit = 20;
};

constexpr double InverseFactorial(int n) { return n <= 1 ? 1.0 : InverseFactorial(n - 1) / n; }

// sum over k in [K, N] of r^(k-K) / k!
template <int K, int N, typename T>
MNEMO_INLINE T ExpSeries(T r) {
  constexpr T kCoefficient = static_cast<T>(InverseFactorial(K));
  if constexpr (K == N) {
    return kCoefficient;
  } else {
    return Fma(ExpSeries<K + 1, N>(r), r, kCoefficient);
  }
}

// sum over k in [K, N] of 2 z^(k-K) / (2 k + 1)
template <int K, int N, typename T>
MNEMO_INLINE T LogSeries(T z) {
  constexpr T kCoefficient = static_cast<T>(2.0 / (2 * K + 1));
  if constexpr (K == N) {
    return kCoefficient;
  } else {
    return Fma(LogSeries<K + 1, N>(z), z, kCoefficient);
  }
}

// 2^n for an integer n within the normal exponents.
template <typename T>
MNEMO_INLINE T PowerOfTwo(T n) {
  using Format = FloatFormat<T>;
  T biased = n + (Format::kMagic + Format::kBias);
  return std::bit_cast<T>(std::bit_cast<typename Format::Bits>(biased) << Format::kMantissaBits);
}

template <typename T>
MNEMO_INLINE T RoundToInteger(T x) {  // |x| < 2^22
  return (x + FloatFormat<T>::kMagic) - FloatFormat<T>::kMagic;
}

// Writes x as n ln 2 + r with |r| <= ln(2) / 2; returns exp(r) - 1 to full relative accuracy.
template <typename T>
MNEMO_INLINE T ReducedExpm1(T x, T* n) {
  using Format = FloatFormat<T>;
  *n = RoundToInteger(x * static_cast<T>(1.4426950408889634));
  T r = Fma(*n, -Format::kLn2High, x);
  r = Fma(*n, -Format::kLn2Low, r);
  return Fma(r * r, ExpSeries<2, Format::kExpTerms>(r), r);
}

}  // namespace internal

template <typename T>
MNEMO_INLINE T Exp(T x) {
  using Format = internal::FloatFormat<T>;
  x = x > Format::kExpHigh ? Format::kExpHigh : x;  // keeps NaN
  x = x < Format::kExpLow ? Format::kExpLow : x;
  T n;
  T expm1 = internal::ReducedExpm1(x, &n);
  T half = internal::RoundToInteger(n * T(0.5));  // in two factors, as 2^n may leave the range
  return (T(1) + expm1) * internal::PowerOfTwo(half) * internal::PowerOfTwo(n - half);
}

template <typename T>
MNEMO_INLINE T Sigmoid(T x) {
  return T(1) / (T(1) + Exp(-x));
}

template <typename T>
MNEMO_INLINE T Tanh(T x) {
  using Format = internal::FloatFormat<T>;
  T size = Absolute(x);
  size = size > Format::kTanhLimit ? Format::kTanhLimit : size;
  T n;
  T reduced = internal::ReducedExpm1(size + size, &n);
  T scale = internal::PowerOfTwo(n);
  T expm1 = Fma(reduced, scale, scale - T(1));
  return WithSignOf(expm1 / (expm1 + T(2)), x);
}

template <typename T>
MNEMO_INLINE T Log(T x) {
  using Format = internal::FloatFormat<T>;
  using Bits = typename Format::Bits;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr Bits kMantissa = (Bits{1} << Format::kMantissaBits) - 1;
  constexpr T kTwoToMantissa = static_cast<T>(Bits{1} << Format::kMantissaBits);
  bool tiny = x < std::numeric_limits<T>::min();
  T y = tiny ? x * kTwoToMantissa : x;
  Bits bits = std::bit_cast<Bits>(y);
  // The biased exponent as a number, through the mantissa of 2^kMantissaBits.
  T exponent =
      std::bit_cast<T>((bits >> Format::kMantissaBits) | std::bit_cast<Bits>(kTwoToMantissa)) -
      kTwoToMantissa;
  exponent -= tiny ? T(Format::kBias + Format::kMantissaBits) : T(Format::kBias);
  T m = std::bit_cast<T>((bits & kMantissa) | std::bit_cast<Bits>(T(1)));
  bool high = m > T(1.4142135623730951);
  m = high ? m * T(0.5) : m;
  exponent = high ? exponent + T(1) : exponent;
  T s = (m - T(1)) / (m + T(1));
  T z = s * s;
  T tail = Fma(s * z, internal::LogSeries<1, Format::kLogTerms>(z), exponent * Format::kLn2Low);
  T result = Fma(exponent, Format::kLn2High, s + s + tail);
  result = x == kInfinity ? kInfinity : result;
  result = x == T(0) ? -kInfinity : result;
  result = x < T(0) ? std::numeric_limits<T>::quiet_NaN() : result;
  return x != x ? x : result;
}

}  // namespace mnemo
