#include "tests/reference/reference_memory.h"

#include <algorithm>
#include <cmath>

namespace mnemo::reference {
namespace {

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

MemoryState FirstState(const MemoryHead& head) {
  return {head.initial, Combine(0, head.initial, 0, head.initial)};
}

MemoryOutput RunMemory(const MemoryRule& rule, const MemoryHead& head, const MemoryInputs& inputs,
                       const MemoryState* start, const std::vector<bool>& resets) {
  const MemoryState first = FirstState(head);
  MemoryWeights w = start ? start->w : first.w;
  MemoryWeights s = start ? start->s : first.s;
  MemoryWeights chunk_first;        // W_c
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
