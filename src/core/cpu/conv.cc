#include <vector>

#include "src/core/cpu/cpu_backend.h"
#include "src/core/cpu/strided_loop.h"
#include "src/core/cpu/sums.h"
#include "src/core/cpu/vector_math.h"

namespace mnemo {
namespace {

constexpr int64_t kRows = 1024;    // rows whose weight gradient is summed in one piece
constexpr int64_t kColumns = 128;  // channels of one piece

// [D, K] as [K, D], so that channels are next to each other.
template <typename T>
std::vector<T> PackWeight(const Tensor& weight) {
  int64_t width = weight.dim(0), taps = weight.dim(1);
  std::vector<T> packed(taps * width);
  for (int64_t j = 0; j < taps; ++j) {
    for (int64_t d = 0; d < width; ++d) {
      packed[j * width + d] = weight.data<T>()[d * weight.strides()[0] + j * weight.strides()[1]];
    }
  }
  return packed;
}

template <typename T>
void ConvRow(const T* x, int64_t row_stride, int64_t stride, const T* weight, int64_t taps, T* out,
             int64_t out_stride, int64_t width) {
  if (taps == 4 && stride == 1 && out_stride == 1) {  // the usual case, in one pass
    const T *x0 = x, *x1 = x0 + row_stride, *x2 = x1 + row_stride, *x3 = x2 + row_stride;
    const T *w0 = weight, *w1 = w0 + width, *w2 = w1 + width, *w3 = w2 + width;
#pragma omp simd
    for (int64_t d = 0; d < width; ++d) {
      out[d] = Fma(w3[d], x3[d], Fma(w2[d], x2[d], Fma(w1[d], x1[d], w0[d] * x0[d])));
    }
    return;
  }
  for (int64_t d = 0; d < width; ++d) {
    T sum = weight[d] * x[d * stride];
    for (int64_t j = 1; j < taps; ++j) {
      sum = Fma(weight[j * width + d], x[j * row_stride + d * stride], sum);
    }
    out[d * out_stride] = sum;
  }
}

template <typename T>
void ConvOf(const Tensor& x, const Tensor& weight, const Tensor& out) {
  int64_t steps = out.dim(1), width = out.dim(2), taps = weight.dim(1);
  std::vector<T> packed = PackWeight<T>(weight);
  int64_t grain = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, width * taps));
  ParallelFor(out.dim(0) * steps, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t b = i / steps, t = i % steps;
      ConvRow(x.data<T>() + b * x.strides()[0] + t * x.strides()[1], x.strides()[1], x.strides()[2],
              packed.data(), taps, out.data<T>() + b * out.strides()[0] + t * out.strides()[1],
              out.strides()[2], width);
    }
  });
}

// totals [taps, kColumns] of one block of channels over rows [begin, end) of sequence b.
template <typename T>
void WeightGradPiece(const Tensor& x, const Tensor& grad, int64_t b, int64_t begin, int64_t end,
                     int64_t channel, int64_t columns, int64_t taps, CompensatedSum* totals) {
  int64_t xs = x.strides()[2], gs = grad.strides()[2];
  std::vector<T> state(taps * kColumns);
  for (int64_t first = begin; first < end; first += kSumBlock) {
    std::fill(state.begin(), state.end(), T(0));
    for (int64_t t = first; t < std::min(end, first + kSumBlock); ++t) {
      const T* g = grad.data<T>() + b * grad.strides()[0] + t * grad.strides()[1] + channel * gs;
      for (int64_t j = 0; j < taps; ++j) {
        const T* row = x.data<T>() + b * x.strides()[0] + (t + j) * x.strides()[1] + channel * xs;
        T* sums = &state[j * kColumns];
        if (xs == 1 && gs == 1) {
#pragma omp simd
          for (int64_t c = 0; c < columns; ++c) sums[c] = Fma(g[c], row[c], sums[c]);
        } else {
          for (int64_t c = 0; c < columns; ++c) sums[c] = Fma(g[c * gs], row[c * xs], sums[c]);
        }
      }
    }
    for (int64_t i = 0; i < taps * kColumns; ++i) totals[i].Add(static_cast<double>(state[i]));
  }
}

template <typename T>
void WeightGradOf(const Tensor& x, const Tensor& grad, const Tensor& out) {
  int64_t steps = grad.dim(1), width = grad.dim(2), taps = out.dim(1);
  int64_t blocks = (width + kColumns - 1) / kColumns;
  int64_t chunks_per_sequence = (steps + kRows - 1) / kRows;
  int64_t chunks = grad.dim(0) * chunks_per_sequence, size = taps * kColumns;
  std::vector<CompensatedSum> parts(blocks * chunks * size);
  int64_t work = std::max<int64_t>(1, std::min(steps, kRows) * std::min(width, kColumns) * taps);
  ParallelFor(blocks * chunks, std::max<int64_t>(1, kPieceElements / work),
              [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i) {
                  int64_t channel = i / chunks * kColumns, chunk = i % chunks;
                  int64_t first = chunk % chunks_per_sequence * kRows;
                  WeightGradPiece<T>(x, grad, chunk / chunks_per_sequence, first,
                                     std::min(steps, first + kRows), channel,
                                     std::min(kColumns, width - channel), taps, &parts[i * size]);
                }
              });
  for (int64_t d = 0; d < width; ++d) {
    for (int64_t j = 0; j < taps; ++j) {
      CompensatedSum total;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        total.Add(parts[(d / kColumns * chunks + chunk) * size + j * kColumns + d % kColumns]);
      }
      out.data<T>()[d * out.strides()[0] + j * out.strides()[1]] = static_cast<T>(total.value());
    }
  }
}

}  // namespace

void CpuDevice::DepthwiseConv(const Tensor& x, const Tensor& weight, const Tensor& out) {
  MNEMO_CHECK(x.rank() == 3 && out.rank() == 3 && weight.rank() == 2 && weight.dim(1) >= 1);
  MNEMO_CHECK(x.dim(1) == out.dim(1) + weight.dim(1) - 1 && x.dim(0) == out.dim(0) &&
              x.dim(2) == out.dim(2) && weight.dim(0) == out.dim(2));
  MNEMO_CHECK(x.dtype() == out.dtype() && weight.dtype() == out.dtype());
  DispatchFloat(out.dtype(), [&](auto zero) { ConvOf<decltype(zero)>(x, weight, out); });
}

void CpuDevice::DepthwiseConvWeightGrad(const Tensor& x, const Tensor& grad, const Tensor& out) {
  MNEMO_CHECK(x.rank() == 3 && grad.rank() == 3 && out.rank() == 2 && out.dim(1) >= 1);
  MNEMO_CHECK(x.dim(1) == grad.dim(1) + out.dim(1) - 1 && x.dim(0) == grad.dim(0) &&
              x.dim(2) == grad.dim(2) && out.dim(0) == grad.dim(2));
  MNEMO_CHECK(x.dtype() == out.dtype() && grad.dtype() == out.dtype());
  DispatchFloat(out.dtype(), [&](auto zero) { WeightGradOf<decltype(zero)>(x, grad, out); });
}

}  // namespace mnemo
