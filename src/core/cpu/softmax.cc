#include <limits>

#include "src/core/cpu/cpu_backend.h"
#include "src/core/cpu/strided_loop.h"
#include "src/core/cpu/sums.h"
#include "src/core/cpu/vector_math.h"

namespace mnemo {
namespace {

template <typename T>
T RowMaximum(const T* x, int64_t n, int64_t stride) {
  T best = -std::numeric_limits<T>::infinity();
  if (stride == 1) {
    constexpr int kLanes = 16;
    T lanes[kLanes];
    for (T& lane : lanes) lane = best;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
      for (int lane = 0; lane < kLanes; ++lane) {
        lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
      }
    }
    for (T lane : lanes) best = lane > best ? lane : best;
    for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  } else {
    for (int64_t i = 0; i < n; ++i) best = x[i * stride] > best ? x[i * stride] : best;
  }
  return best;
}

// A NaN in the row is skipped by the maximum and comes back through exp and the sum.
template <typename T>
void SoftmaxRow(const T* x, int64_t x_stride, T* out, int64_t out_stride, int64_t n) {
  T top = RowMaximum(x, n, x_stride);
  if (top == -std::numeric_limits<T>::infinity()) top = 0;
  if (x_stride == 1 && out_stride == 1) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = Exp(x[i] - top);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i * out_stride] = Exp(x[i * x_stride] - top);
  }
  CompensatedSum sum;
  AddRun(out, n, out_stride, &sum);
  double total = sum.value();
  T scale = total == 0 ? T(0) : static_cast<T>(1 / total);
  if (out_stride == 1) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] *= scale;
  } else {
    for (int64_t i = 0; i < n; ++i) out[i * out_stride] *= scale;
  }
}

}  // namespace

void CpuDevice::Softmax(const Tensor& x, const Tensor& out) {
  MNEMO_CHECK(x.shape() == out.shape() && x.dtype() == out.dtype() && x.rank() >= 1);
  int64_t n = x.dim(-1);
  if (out.elements() == 0) return;
  Tensor x_rows = x.Slice(-1, 0, 1), out_rows = out.Slice(-1, 0, 1);
  int64_t x_stride = x.strides().back(), out_stride = out.strides().back();
  StridedLoop<2> loop({&out_rows, &x_rows});
  DispatchFloat(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    loop.Run(
        [&](const std::array<int64_t, 2>& offsets, int64_t rows) {
          T* o = out.data<T>() + offsets[0];
          const T* a = x.data<T>() + offsets[1];
          for (int64_t i = 0; i < rows; ++i) {
            SoftmaxRow(a + i * loop.inner_stride(1), x_stride, o + i * loop.inner_stride(0),
                       out_stride, n);
          }
        },
        4 * n);
  });
}

}  // namespace mnemo
