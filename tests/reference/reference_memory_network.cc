// f_W and its gradient for one token, by backpropagation written out.
#include <cmath>
#include <numbers>

#include "tests/reference/reference_layers.h"
#include "tests/reference/reference_memory.h"

namespace mnemo::reference {
namespace {

double Act(Activation a, double z) { return a == Activation::kSilu ? Silu(z) : Gelu(z); }

double ActDerivative(Activation a, double z) {
  if (a == Activation::kSilu) return Sigmoid(z) + z * Sigmoid(z) * (1 - Sigmoid(z));
  const double kappa = std::sqrt(2 / std::numbers::pi);
  const double th = std::tanh(kappa * (z + 0.044715 * z * z * z));
  return 0.5 * (1 + th) + 0.5 * z * (1 - th * th) * kappa * (1 + 3 * 0.044715 * z * z);
}

// h[i] = h_i for i < n, and z[i] = W_{i+1} h_i + c_{i+1}, so that z[n-1] = o.
struct Trace {
  std::vector<Vector> h, z;
};

Trace Forward(const MemoryRule& rule, const MemoryWeights& weights, const Vector& x) {
  Trace trace;
  Vector h = x;
  for (std::size_t i = 0; i < weights.w.size(); ++i) {
    const Matrix& w = weights.w[i];
    Vector z(w.rows, 0.0);
    for (int r = 0; r < w.rows; ++r) {
      for (int c = 0; c < w.cols; ++c) z[r] += w(r, c) * h[c];
      if (!weights.c.empty()) z[r] += weights.c[i](r, 0);
    }
    trace.h.push_back(h);
    trace.z.push_back(z);
    h = z;
    for (double& value : h) value = Act(rule.activation, value);
  }
  return trace;
}

// The normalised o (before g and e) and 1 / its deviation.
Vector Normalised(const Vector& o, double epsilon, double* inverse) {
  const double f = static_cast<double>(o.size());
  double mean = 0, variance = 0;
  for (double value : o) mean += value / f;
  for (double value : o) variance += (value - mean) * (value - mean) / f;
  *inverse = 1 / std::sqrt(variance + epsilon);
  Vector out = o;
  for (double& value : out) value = (value - mean) * *inverse;
  return out;
}

}  // namespace

Vector MemoryRead(const MemoryRule& rule, const MemoryHead& head, const MemoryWeights& weights,
                  const Vector& x) {
  Vector out = Forward(rule, weights, x).z.back();
  double inverse = 0;
  if (rule.layer_norm) out = Normalised(out, rule.epsilon, &inverse);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (rule.layer_norm) out[i] = out[i] * head.ln_gain[i] + head.ln_bias[i];
    if (rule.residual) out[i] += x[i];
  }
  return out;
}

MemoryWeights InnerGradient(const MemoryRule& rule, const MemoryHead& head,
                            const MemoryWeights& weights, const Vector& k, const Vector& v) {
  const Trace trace = Forward(rule, weights, k);
  const int f = static_cast<int>(k.size());
  Vector delta = MemoryRead(rule, head, weights, k);  // the loss's derivative by f, then by o
  for (int i = 0; i < f; ++i) delta[i] -= v[i];
  if (rule.layer_norm) {
    double inverse = 0, mean = 0, mean_hat = 0;
    const Vector hat = Normalised(trace.z.back(), rule.epsilon, &inverse);
    for (int i = 0; i < f; ++i) {
      delta[i] *= head.ln_gain[i];
      mean += delta[i] / f;
      mean_hat += delta[i] * hat[i] / f;
    }
    for (int i = 0; i < f; ++i) delta[i] = inverse * (delta[i] - mean - hat[i] * mean_hat);
  }
  MemoryWeights u = weights;
  for (int i = static_cast<int>(weights.w.size()) - 1; i >= 0; --i) {
    const Matrix& w = weights.w[i];
    for (int r = 0; r < w.rows; ++r) {
      for (int c = 0; c < w.cols; ++c) u.w[i](r, c) = delta[r] * trace.h[i][c];
      if (!u.c.empty()) u.c[i](r, 0) = delta[r];
    }
    if (i == 0) break;
    Vector below(w.cols, 0.0);
    for (int c = 0; c < w.cols; ++c) {
      for (int r = 0; r < w.rows; ++r) below[c] += w(r, c) * delta[r];
      below[c] *= ActDerivative(rule.activation, trace.z[i - 1][c]);
    }
    delta = below;
  }
  return u;
}

}  // namespace mnemo::reference
