// Matrices of the float64 reference: plain loops.
#pragma once

#include <cstddef>
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

// c += scale * op(a) op(b), where op transposes on request.
inline void Add(Mat& c, const Mat& a, bool ta, const Mat& b, bool tb, double scale = 1.0) {
  const int m = c.rows, n = c.cols, k = ta ? a.rows : a.cols;
  for (int i = 0; i < m; ++i) {
    for (int l = 0; l < k; ++l) {
      const double x = scale * (ta ? a(l, i) : a(i, l));
      if (x == 0.0) continue;
      for (int j = 0; j < n; ++j) c(i, j) += x * (tb ? b(j, l) : b(l, j));
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

inline Mat Map(const Mat& a, double (*fn)(double)) {
  Mat c = a;
  for (double& x : c.v) x = fn(x);
  return c;
}

}  // namespace mnemo::memory_reference
