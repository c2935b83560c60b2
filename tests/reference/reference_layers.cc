#include "tests/reference/reference_layers.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace mnemo::reference {
namespace {

// The sum of squares of head h of token t.
double SumOfSquares(const Matrix& x, int t, int h, int width) {
  double sum = 0;
  for (int i = h * width; i < (h + 1) * width; ++i) sum += x(t, i) * x(t, i);
  return sum;
}

}  // namespace

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double Silu(double x) { return x * Sigmoid(x); }

double Gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}

Matrix Map(double (*function)(double), const Matrix& x) {
  Matrix out = x;
  for (double& value : out.data) value = function(value);
  return out;
}

Matrix Add(const Matrix& x, const Matrix& y) {
  Matrix out = x;
  for (std::size_t i = 0; i < out.data.size(); ++i) out.data[i] += y.data[i];
  return out;
}

Matrix Multiply(const Matrix& x, const Matrix& y) {
  Matrix out = x;
  for (std::size_t i = 0; i < out.data.size(); ++i) out.data[i] *= y.data[i];
  return out;
}

Matrix Linear(const Matrix& x, const Matrix& w) {
  Matrix out(x.rows, w.rows);
  for (int t = 0; t < x.rows; ++t) {
    for (int o = 0; o < w.rows; ++o) {
      for (int i = 0; i < w.cols; ++i) out(t, o) += w(o, i) * x(t, i);
    }
  }
  return out;
}

Matrix RmsNorm(const Matrix& x, const Vector& weight, int heads, double epsilon) {
  const int width = x.cols / heads;
  Matrix out = x;
  for (int t = 0; t < x.rows; ++t) {
    for (int i = 0; i < x.cols; ++i) {
      out(t, i) *= weight[i] / std::sqrt(SumOfSquares(x, t, i / width, width) / width + epsilon);
    }
  }
  return out;
}

Matrix L2Norm(const Matrix& x, int heads, double epsilon) {
  const int width = x.cols / heads;
  Matrix out = x;
  for (int t = 0; t < x.rows; ++t) {
    for (int i = 0; i < x.cols; ++i) {
      out(t, i) /= std::sqrt(SumOfSquares(x, t, i / width, width) + epsilon);
    }
  }
  return out;
}

Matrix CausalConv(const Matrix& x, const Matrix& w) {
  Matrix out(x.rows, x.cols);
  for (int t = 0; t < x.rows; ++t) {
    for (int i = 0; i < x.cols; ++i) {
      for (int j = 0; j < 4; ++j) {
        if (t - 3 + j >= 0) out(t, i) += w(i, j) * x(t - 3 + j, i);
      }
    }
  }
  return out;
}

Matrix SwiGlu(const Matrix& x, const Matrix& w_gate, const Matrix& w_up, const Matrix& w_down) {
  return Linear(Multiply(Map(Silu, Linear(x, w_gate)), Linear(x, w_up)), w_down);
}

Vector CrossEntropy(const Matrix& logits, const std::vector<int>& targets) {
  Vector loss(logits.rows, 0.0);
  for (int t = 0; t < logits.rows; ++t) {
    if (targets[t] < 0) continue;
    const Vector row = Row(logits, t);
    const double top = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (double value : row) sum += std::exp(value - top);
    loss[t] = top + std::log(sum) - row[targets[t]];
  }
  return loss;
}

}  // namespace mnemo::reference
