#include <vector>

#include "src/core/cpu/cpu_backend.h"
#include "src/core/cpu/strided_loop.h"
#include "src/core/cpu/sums.h"
#include "src/core/cpu/vector_math.h"

namespace mnemo {
namespace {

template <typename T>
void AdamWOf(const AdamWStep& step, const T* gradient, T* parameter, T* first, T* second,
             int64_t begin, int64_t end) {
  const T scale = static_cast<T>(step.gradient_scale), rate = static_cast<T>(step.rate);
  const T beta1 = static_cast<T>(step.beta1), rest1 = static_cast<T>(1 - step.beta1);
  const T beta2 = static_cast<T>(step.beta2), rest2 = static_cast<T>(1 - step.beta2);
  const T unbias1 = static_cast<T>(1 / step.correction1);
  const T unbias2 = static_cast<T>(1 / step.correction2);
  const T epsilon = static_cast<T>(step.epsilon), decay = static_cast<T>(step.decay);
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    T g = gradient[i] * scale;
    T m = Fma(beta1, first[i], rest1 * g);
    T v = Fma(beta2, second[i], rest2 * g * g);
    first[i] = m;
    second[i] = v;
    T update = m * unbias1 / (SquareRoot(v * unbias2) + epsilon);
    parameter[i] = Fma(-rate, Fma(decay, parameter[i], update), parameter[i]);
  }
}

template <typename T>
CompensatedSum SquaresOf(const T* x, int64_t count) {
  constexpr int kLanes = 16;
  constexpr int64_t kBlock = 1024;
  CompensatedSum sum;
  for (int64_t first = 0; first < count; first += kBlock) {
    int64_t n = std::min(kBlock, count - first), i = 0;
    const T* block = x + first;
    double lanes[kLanes] = {};
    for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
      for (int lane = 0; lane < kLanes; ++lane) {
        double value = block[i + lane];
        lanes[lane] = Fma(value, value, lanes[lane]);
      }
    }
    for (int lane = 0; i < n; ++i, ++lane) {
      double value = block[i];
      lanes[lane] = Fma(value, value, lanes[lane]);
    }
    for (double lane : lanes) sum.Add(lane);
  }
  return sum;
}

}  // namespace

void CpuDevice::AdamW(const AdamWStep& step, const Tensor& gradient, const Tensor& parameter,
                      const Tensor& first_moment, const Tensor& second_moment) {
  for (const Tensor* x : {&gradient, &parameter, &first_moment, &second_moment}) {
    MNEMO_CHECK(x->contiguous() && x->dtype() == parameter.dtype() &&
                x->elements() == parameter.elements());
  }
  DispatchFloat(parameter.dtype(), [&](auto zero) {
    using T = decltype(zero);
    ParallelFor(parameter.elements(), kPieceElements, [&](int64_t begin, int64_t end) {
      AdamWOf(step, gradient.data<T>(), parameter.data<T>(), first_moment.data<T>(),
              second_moment.data<T>(), begin, end);
    });
  });
}

namespace {

double SquaredNorm(const Tensor& x) {
  MNEMO_CHECK(x.contiguous());
  int64_t count = x.elements(), pieces = (count + kPieceElements - 1) / kPieceElements;
  std::vector<CompensatedSum> parts(pieces);
  DispatchFloat(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    ParallelFor(pieces, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        int64_t first = i * kPieceElements;
        parts[i] = SquaresOf(x.data<T>() + first, std::min(kPieceElements, count - first));
      }
    });
  });
  CompensatedSum total;
  for (const CompensatedSum& part : parts) total.Add(part);
  return total.value();
}

}  // namespace

std::vector<double> CpuDevice::SquaredNorms(std::span<const Tensor> tensors) {
  std::vector<double> norms;
  for (const Tensor& x : tensors) norms.push_back(SquaredNorm(x));
  return norms;
}

}  // namespace mnemo
