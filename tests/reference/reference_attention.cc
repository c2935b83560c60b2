#include "tests/reference/reference_attention.h"

#include <cmath>

#include "tests/reference/reference_layers.h"

namespace mnemo::reference {
namespace {

// Head h of one row.
Vector Head(const Matrix& x, int row, int h, int f) {
  return Slice(x, row, row + 1, h * f, f).data;
}

Vector Rope(const Vector& x, int position, double base) {
  const int f = static_cast<int>(x.size());
  Vector out = x;
  for (int i = 0; i < f / 2; ++i) {
    const double angle = position * std::pow(base, -2.0 * i / f);
    out[i] = x[i] * std::cos(angle) - x[i + f / 2] * std::sin(angle);
    out[i + f / 2] = x[i] * std::sin(angle) + x[i + f / 2] * std::cos(angle);
  }
  return out;
}

double Dot(const Vector& x, const Vector& y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

// Softmax of the scores, applied to the values. The largest score is taken off first.
Vector WeightedMean(const Vector& scores, const std::vector<Vector>& values, int f) {
  double top = scores[0], total = 0;
  for (double score : scores) top = std::fmax(top, score);
  for (double score : scores) total += std::exp(score - top);
  Vector out(f, 0.0);
  for (std::size_t n = 0; n < scores.size(); ++n) {
    for (int i = 0; i < f; ++i) out[i] += std::exp(scores[n] - top) / total * values[n][i];
  }
  return out;
}

}  // namespace

Matrix Attention(const BlockOptions& options, const BlockWeights& weights, const Matrix& x,
                 const std::vector<KeyRows>& keys, int window, int first_position) {
  const int f = x.cols / options.heads;
  const double base = options.rope_base;
  const Matrix queries = Linear(x, weights.aq);
  std::vector<Matrix> k, v;
  for (const KeyRows& source : keys) {
    k.push_back(Linear(source.rows, weights.ak));
    v.push_back(Linear(source.rows, weights.av));
  }
  Matrix out(x.rows, x.cols);
  for (int h = 0; h < options.heads; ++h) {
    for (int i = 0; i < x.rows; ++i) {
      const Vector query = Rope(Head(queries, i, h, f), first_position + i, base);
      Vector scores;
      std::vector<Vector> values;
      for (std::size_t n = 0; n < keys.size(); ++n) {
        for (int j = 0; j < keys[n].rows.rows; ++j) {
          Vector key = Head(k[n], j, h, f);
          if (!keys[n].persistent) {
            if (j > i || (window > 0 && i - j >= window)) continue;
            key = Rope(key, first_position + j, base);
          }
          scores.push_back(Dot(query, key) / std::sqrt(static_cast<double>(f)));
          values.push_back(Head(v[n], j, h, f));
        }
      }
      const Vector mean = WeightedMean(scores, values, f);
      for (int c = 0; c < f; ++c) out(i, h * f + c) = mean[c];
    }
  }
  return out;
}

Matrix TransformerMixer(const BlockOptions& options, const BlockWeights& weights, const Matrix& x) {
  const Matrix a =
      Attention(options, weights, x, {{weights.persistent, true}, {x, false}}, options.window, 0);
  return Linear(a, weights.wo);
}

}  // namespace mnemo::reference
