// Sums whose rounding error does not grow with their length: lanes over blocks of 128 values in
// the tensor's own type, then a compensated sum in f64.
#pragma once

#include <cmath>
#include <cstdint>

namespace mnemo {

inline constexpr int64_t kSumBlock = 128;

// Knuth's two-sum keeps what each addition rounds away.
class CompensatedSum {
 public:
  void Add(double value) {
    double sum = sum_ + value;
    double shadow = sum - sum_;
    lost_ += (sum_ - (sum - shadow)) + (value - shadow);
    sum_ = sum;
  }
  void Add(const CompensatedSum& other) {
    Add(other.sum_);
    lost_ += other.lost_;
  }
  // Infinite or NaN if the plain sum is; what was lost is then meaningless.
  double value() const { return std::isfinite(sum_) ? sum_ + lost_ : sum_; }

 private:
  double sum_ = 0, lost_ = 0;
};

// Sum of at most kSumBlock values `stride` apart.
template <typename T>
inline double BlockSum(const T* x, int64_t n, int64_t stride) {
  constexpr int kLanes = 16;
  T lanes[kLanes] = {};
  int64_t i = 0;
  if (stride == 1) {
    for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane];
    }
  }
  for (int lane = 0; i < n; ++i, ++lane) lanes[lane % kLanes] += x[i * stride];
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

template <typename T>
inline void AddRun(const T* x, int64_t n, int64_t stride, CompensatedSum* sum) {
  for (int64_t i = 0; i < n; i += kSumBlock) {
    sum->Add(BlockSum(x + i * stride, n - i < kSumBlock ? n - i : kSumBlock, stride));
  }
}

}  // namespace mnemo
