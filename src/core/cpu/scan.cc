#include "src/core/cpu/cpu_backend.h"
#include "src/core/cpu/strided_loop.h"
#include "src/core/cpu/vector_math.h"

namespace mnemo {
namespace {

constexpr int64_t kColumns = 256;  // states carried side by side, in the first-level cache

struct Walk {
  int64_t steps, out_step, a_step, b_step;  // along time; negative for a reverse scan
  int64_t out_stride, a_stride, b_stride;   // along columns
};

template <typename T>
void ScanColumns(const Walk& walk, const T* a, const T* b, T* out, int64_t columns) {
  T state[kColumns] = {};
  for (int64_t t = 0; t < walk.steps; ++t) {
    if (walk.out_stride == 1 && walk.b_stride == 1 && walk.a_stride == 1) {
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c) out[c] = state[c] = Fma(a[c], state[c], b[c]);
    } else if (walk.out_stride == 1 && walk.b_stride == 1 && walk.a_stride == 0) {
      T decay = *a;
#pragma omp simd
      for (int64_t c = 0; c < columns; ++c) out[c] = state[c] = Fma(decay, state[c], b[c]);
    } else {
      for (int64_t c = 0; c < columns; ++c) {
        state[c] = Fma(a[c * walk.a_stride], state[c], b[c * walk.b_stride]);
        out[c * walk.out_stride] = state[c];
      }
    }
    a += walk.a_step;
    b += walk.b_step;
    out += walk.out_step;
  }
}

}  // namespace

void CpuDevice::LinearScan(const Tensor& a, const Tensor& b, bool reverse, const Tensor& out) {
  MNEMO_CHECK(a.shape() == out.shape() && b.shape() == out.shape() && out.rank() >= 2);
  MNEMO_CHECK(a.dtype() == out.dtype() && b.dtype() == out.dtype());
  int64_t steps = out.dim(-2);
  if (out.elements() == 0) return;
  int64_t start = reverse ? steps - 1 : 0, sign = reverse ? -1 : 1;
  Tensor a0 = a.Slice(-2, start, start + 1), b0 = b.Slice(-2, start, start + 1);
  Tensor out0 = out.Slice(-2, start, start + 1);
  StridedLoop<3> loop({&out0, &a0, &b0});
  int axis = out.rank() - 2;
  Walk walk{steps,
            sign * out.strides()[axis],
            sign * a.strides()[axis],
            sign * b.strides()[axis],
            loop.inner_stride(0),
            loop.inner_stride(1),
            loop.inner_stride(2)};
  DispatchFloat(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    loop.Run(
        [&](const std::array<int64_t, 3>& offsets, int64_t n) {
          for (int64_t c = 0; c < n; c += kColumns) {
            ScanColumns(walk, a0.data<T>() + offsets[1] + c * walk.a_stride,
                        b0.data<T>() + offsets[2] + c * walk.b_stride,
                        out0.data<T>() + offsets[0] + c * walk.out_stride,
                        std::min(kColumns, n - c));
          }
        },
        steps);
  });
}

}  // namespace mnemo
