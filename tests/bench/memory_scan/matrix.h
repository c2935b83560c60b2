// Matrices of the float64 reference: plain loops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace mnemo::memory_reference {

// Row-major matrix of doubles.
struct Mat {
  int rows = 0, cols = 0;
  std::vector<double> v;
  Mat() = default;
  Mat(int r, int c) : rows(r), cols(c), v(static_cast<size_t>(r) * c, 0.0) {}
  double& operator()(int r, int c) { return v[static_cast<size_t>(r) * cols + c]; }
  double operator()(int r, int c) const { return v[static_cast<size_t>(r) * cols + c]; }
};

// While this lives, the calling thread's products round their operands to bf16, as a path that
// keeps everything else exact would.
class RoundOperands {
 public:
  explicit RoundOperands(bool on) : before_(active()) { active() = on; }
  ~RoundOperands() { active() = before_; }
  RoundOperands(const RoundOperands&) = delete;
  RoundOperands& operator=(const RoundOperands&) = delete;
  static bool& active() {
    static thread_local bool on = false;
    return on;
  }

 private:
  bool before_;
};

// To bf16, ties to even.
inline double Rounded(double x) {
  const float single = static_cast<float>(x);
  uint32_t bits;
  std::memcpy(&bits, &single, sizeof(bits));
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

inline void Round(Mat& a) {
  for (double& x : a.v) x = Rounded(x);
}

// op(a), row-major, rounded if operands are.
inline Mat Operand(const Mat& a, bool transposed) {
  Mat c(transposed ? a.cols : a.rows, transposed ? a.rows : a.cols);
  for (int i = 0; i < c.rows; ++i)
    for (int j = 0; j < c.cols; ++j) c(i, j) = transposed ? a(j, i) : a(i, j);
  if (RoundOperands::active()) Round(c);
  return c;
}

// c += scale * op(a) op(b), where op transposes on request.
inline void Add(Mat& c, const Mat& a, bool ta, const Mat& b, bool tb, double scale = 1.0) {
  const Mat left = Operand(a, ta), right = Operand(b, tb);
  const int n = c.cols;
  for (int i = 0; i < c.rows; ++i) {
    double* to = &c.v[static_cast<size_t>(i) * n];
    for (int l = 0; l < left.cols; ++l) {
      const double x = scale * left(i, l);
      const double* from = &right.v[static_cast<size_t>(l) * n];
      for (int j = 0; j < n; ++j) to[j] += x * from[j];
    }
  }
}

inline Mat Product(const Mat& a, bool ta, const Mat& b, bool tb) {
  Mat c(ta ? a.cols : a.rows, tb ? b.rows : b.cols);
  Add(c, a, ta, b, tb);
  return c;
}

inline void Axpy(Mat& y, double a, const Mat& x) {
  for (size_t i = 0; i < y.v.size(); ++i) y.v[i] += a * x.v[i];
}

inline double Dot(const Mat& a, const Mat& b) {
  double sum = 0;
  for (size_t i = 0; i < a.v.size(); ++i) sum += a.v[i] * b.v[i];
  return sum;
}

inline Mat Hadamard(const Mat& a, const Mat& b) {
  Mat c = a;
  for (size_t i = 0; i < c.v.size(); ++i) c.v[i] *= b.v[i];
  return c;
}

inline Mat ScaleRows(const std::vector<double>& d, const Mat& a) {
  Mat c = a;
  for (int i = 0; i < a.rows; ++i)
    for (int j = 0; j < a.cols; ++j) c(i, j) *= d[i];
  return c;
}

inline void AddRowDots(std::vector<double>& out, double scale, const Mat& a, const Mat& b) {
  for (int i = 0; i < a.rows; ++i)
    for (int j = 0; j < a.cols; ++j) out[i] += scale * a(i, j) * b(i, j);
}

template <typename Function>
Mat Map(const Mat& a, const Function& function) {
  Mat c = a;
  for (double& x : c.v) x = function(x);
  return c;
}

}  // namespace mnemo::memory_reference
