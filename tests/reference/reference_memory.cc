#include "tests/reference/reference_memory.h"

#include <algorithm>
#include <cmath>

#include "tests/reference/reference_layers.h"

namespace mnemo::reference {
namespace {

double Act(Activation a, double z) { return a == Activation::kSilu ? Silu(z) : Gelu(z); }

double ActDerivative(Activation a, double z) {
  if (a == Activation::kSilu) return Sigmoid(z) + z * Sigmoid(z) * (1 - Sigmoid(z));
  const double kappa = std::sqrt(2 / M_PI);
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
Vector Normalised(const Vector& o, double* inverse) {
  const double f = static_cast<double>(o.size());
  double mean = 0, variance = 0;
  for (double value : o) mean += value / f;
  for (double value : o) variance += (value - mean) * (value - mean) / f;
  *inverse = 1 / std::sqrt(variance + 1e-6);
  Vector out = o;
  for (double& value : out) value = (value - mean) * *inverse;
  return out;
}

Matrix Combine(double a, const Matrix& x, double b, const Matrix& y) {
  Matrix out = x;
  for (std::size_t i = 0; i < out.data.size(); ++i) out.data[i] = a * x.data[i] + b * y.data[i];
  return out;
}

// a x + b y, number by number.
MemoryWeights Combine(double a, const MemoryWeights& x, double b, const MemoryWeights& y) {
  MemoryWeights out = x;
  for (std::size_t i = 0; i < x.w.size(); ++i) out.w[i] = Combine(a, x.w[i], b, y.w[i]);
  for (std::size_t i = 0; i < x.c.size(); ++i) out.c[i] = Combine(a, x.c[i], b, y.c[i]);
  return out;
}

double Norm(const MemoryWeights& u) {
  double sum = 0;
  for (const Matrix& m : u.w) {
    for (double value : m.data) sum += value * value;
  }
  for (const Matrix& m : u.c) {
    for (double value : m.data) sum += value * value;
  }
  return std::sqrt(sum);
}

}  // namespace

Vector MemoryRead(const MemoryRule& rule, const MemoryHead& head, const MemoryWeights& weights,
                  const Vector& x) {
  Vector out = Forward(rule, weights, x).z.back();
  double inverse = 0;
  if (rule.layer_norm) out = Normalised(out, &inverse);
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
    const Vector hat = Normalised(trace.z.back(), &inverse);
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

MemoryState FirstState(const MemoryHead& head) {
  return {head.initial, Combine(0, head.initial, 0, head.initial)};
}

MemoryOutput RunMemory(const MemoryRule& rule, const MemoryHead& head, const MemoryInputs& inputs,
                       const MemoryState* start, const std::vector<bool>& resets) {
  const MemoryState first = FirstState(head);
  MemoryWeights w = start ? start->w : first.w;
  MemoryWeights s = start ? start->s : first.s;
  MemoryWeights chunk_first;      // W_c
  MemoryWeights surprise, written;  // sum_s P_{t,s} u_s and sum_s G_{t,s} u_s of this chunk
  MemoryOutput out;
  out.y = Matrix(inputs.q.rows, inputs.q.cols);
  for (int t = 0; t < inputs.q.rows; ++t) {
    const int place = t % rule.chunk;
    if (place == 0) {
      if (!resets.empty() && resets[t / rule.chunk]) w = first.w, s = first.s;
      chunk_first = w;
      surprise = written = first.s;
    }
    const double theta = inputs.theta[t];
    const double eta = rule.momentum ? inputs.eta[t] : 0;
    const double alpha = rule.forgetting == Forgetting::kOff ? 0 : inputs.alpha[t];

    MemoryWeights u = InnerGradient(rule, head, chunk_first, Row(inputs.k, t), Row(inputs.v, t));
    if (rule.clamp > 0) {
      const double norm = Norm(u);
      if (norm > rule.clamp) ++out.clamp_hits;
      u = Combine(1 / std::sqrt(1 + norm * norm / (rule.clamp * rule.clamp)), u, 0, u);
    }
    s = Combine(eta, s, -theta, u);
    w = Combine(1 - alpha, w, 1, s);
    if (rule.forgetting == Forgetting::kInitial) w = Combine(1, w, alpha, head.initial);

    MemoryWeights read = w;
    if (!head.row_scale.empty()) {
      surprise = Combine(eta, surprise, theta, u);
      written = Combine(1 - alpha, written, 1, surprise);
      const double r = std::max(0.0, 1.0 / (place + 1) + head.row_scale[place]);
      read = Combine(1, w, 1 - r, written);  // w holds -written; this makes it -r written
    }
    SetRow(out.y, t, MemoryRead(rule, head, read, Row(inputs.q, t)));
    if (place + 1 == rule.chunk || t + 1 == inputs.q.rows) w = read;
  }
  out.last = {w, rule.momentum ? s : first.s};
  return out;
}

}  // namespace mnemo::reference
