#include "src/core/cpu/cpu_backend.h"
#include "src/core/cpu/strided_loop.h"

namespace mnemo {
namespace {

template <typename T, typename F>
void Map(const Tensor& a, const Tensor& b, const Tensor& out, F f) {
  StridedLoop<3> loop({&out, &a, &b});
  int64_t so = loop.inner_stride(0), sa = loop.inner_stride(1), sb = loop.inner_stride(2);
  loop.Run([&](const std::array<int64_t, 3>& offsets, int64_t n) {
    T* o = out.data<T>() + offsets[0];
    const T* x = a.data<T>() + offsets[1];
    const T* y = b.data<T>() + offsets[2];
    if (so == 1 && sa == 1 && sb == 1) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) o[i] = f(x[i], y[i]);
    } else if (so == 1 && sa == 1 && sb == 0) {
      T value = *y;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) o[i] = f(x[i], value);
    } else if (so == 1 && sa == 0 && sb == 1) {
      T value = *x;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) o[i] = f(value, y[i]);
    } else {
      for (int64_t i = 0; i < n; ++i) o[i * so] = f(x[i * sa], y[i * sb]);
    }
  });
}

template <typename T>
void BinaryOf(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) {
  switch (op) {
    case BinaryOp::kAdd:
      return Map<T>(a, b, out, [](T x, T y) { return x + y; });
    case BinaryOp::kSub:
      return Map<T>(a, b, out, [](T x, T y) { return x - y; });
    case BinaryOp::kMul:
      return Map<T>(a, b, out, [](T x, T y) { return x * y; });
    case BinaryOp::kDiv:
      return Map<T>(a, b, out, [](T x, T y) { return x / y; });
    case BinaryOp::kMax:  // NaN if either is
      return Map<T>(a, b, out, [](T x, T y) { return ((x > y) | (x != x)) ? x : y; });
    case BinaryOp::kGreater:
      return Map<T>(a, b, out, [](T x, T y) { return x > y ? T(1) : T(0); });
  }
  MNEMO_CHECK(false, "binary op {}", static_cast<int>(op));
}

template <typename T>
void WhereOf(const Tensor& mask, const Tensor& a, const Tensor& b, const Tensor& out) {
  StridedLoop<4> loop({&out, &mask, &a, &b});
  int64_t so = loop.inner_stride(0), sm = loop.inner_stride(1);
  int64_t sa = loop.inner_stride(2), sb = loop.inner_stride(3);
  loop.Run([&](const std::array<int64_t, 4>& offsets, int64_t n) {
    T* o = out.data<T>() + offsets[0];
    const T* m = mask.data<T>() + offsets[1];
    const T* x = a.data<T>() + offsets[2];
    const T* y = b.data<T>() + offsets[3];
    if (so == 1 && sm == 1 && sa == 1 && sb == 1) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) o[i] = m[i] > T(0) ? x[i] : y[i];
    } else if (so == 1 && sm == 1 && sa == 1 && sb == 0) {
      T value = *y;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) o[i] = m[i] > T(0) ? x[i] : value;
    } else {
      for (int64_t i = 0; i < n; ++i) o[i * so] = m[i * sm] > T(0) ? x[i * sa] : y[i * sb];
    }
  });
}

}  // namespace

void CpuDevice::Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) {
  MNEMO_CHECK(a.dtype() == out.dtype() && b.dtype() == out.dtype());
  DispatchFloat(out.dtype(), [&](auto zero) { BinaryOf<decltype(zero)>(op, a, b, out); });
}

void CpuDevice::Where(const Tensor& mask, const Tensor& a, const Tensor& b, const Tensor& out) {
  MNEMO_CHECK(mask.dtype() == out.dtype() && a.dtype() == out.dtype() && b.dtype() == out.dtype());
  DispatchFloat(out.dtype(), [&](auto zero) { WhereOf<decltype(zero)>(mask, a, b, out); });
}

}  // namespace mnemo
