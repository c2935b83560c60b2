#include "tests/bench/memory_scan/reference_chunk.h"

#include <algorithm>
#include <cmath>

namespace mnemo::memory_reference {
namespace {

// z (1 + tanh u) / 2 with u = z / 2 for SiLU, u = sqrt(2 / pi) (z + 0.044715 z^3) for GELU.
struct Activation {
  double linear, cubic;
  explicit Activation(bool gelu)
      : linear(gelu ? std::sqrt(2 / M_PI) : 0.5), cubic(gelu ? linear * 0.044715 : 0) {}
  double Tanh(double z) const { return std::tanh(z * (linear + cubic * z * z)); }
  double Value(double z) const { return 0.5 * z * (1 + Tanh(z)); }
  double Slope(double z) const {
    const double t = Tanh(z), du = linear + 3 * cubic * z * z;
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * du;
  }
  double Curve(double z) const {
    const double t = Tanh(z), du = linear + 3 * cubic * z * z;
    return (1 - t * t) * (du + 0.5 * z * (6 * cubic * z - 2 * t * du * du));
  }
};

}  // namespace

Mat Values(const Rule& rule, const Mat& z) {
  const Activation act(rule.gelu);
  return Map(z, [&](double x) { return act.Value(x); });
}
Mat Slopes(const Rule& rule, const Mat& z) {
  const Activation act(rule.gelu);
  return Map(z, [&](double x) { return act.Slope(x); });
}
Mat Curves(const Rule& rule, const Mat& z) {
  const Activation act(rule.gelu);
  return Map(z, [&](double x) { return act.Curve(x); });
}

NormStats Normalize(const double* x, int n, double epsilon) {
  double mean = 0, var = 0;
  for (int i = 0; i < n; ++i) mean += x[i] / n;
  for (int i = 0; i < n; ++i) var += (x[i] - mean) * (x[i] - mean) / n;
  NormStats s{1 / std::sqrt(var + epsilon), std::vector<double>(n)};
  for (int i = 0; i < n; ++i) s.xhat[i] = (x[i] - mean) * s.r;
  return s;
}

std::vector<double> Project(const std::vector<double>& x, const std::vector<double>& xhat) {
  const int n = static_cast<int>(x.size());
  double m1 = 0, m2 = 0;
  for (int i = 0; i < n; ++i) m1 += x[i] / n, m2 += x[i] * xhat[i] / n;
  std::vector<double> y(n);
  for (int i = 0; i < n; ++i) y[i] = x[i] - m1 - xhat[i] * m2;
  return y;
}

double RowSquares(const Mat& a, int row) {
  double sum = 0;
  for (int j = 0; j < a.cols; ++j) sum += a(row, j) * a(row, j);
  return sum;
}

std::vector<double> Fade(const Rule& rule, const Coefficients& c) {
  std::vector<double> fade(c.a.size(), 0);
  for (size_t t = 0; t < fade.size() && rule.towards_initial; ++t) fade[t] = 1 - c.a[t];
  return fade;
}

Mat Rows(const Mat& a, int t0, int n) {
  Mat c(n, a.cols);
  std::copy_n(a.v.begin() + static_cast<size_t>(t0) * a.cols, c.v.size(), c.v.begin());
  return c;
}

Mat Input(const Rule& rule, const Mat& x) {
  if (!rule.biases) return x;
  Mat y(x.rows, x.cols + 1);
  for (int t = 0; t < x.rows; ++t) {
    for (int i = 0; i < x.cols; ++i) y(t, i) = x(t, i);
    y(t, x.cols) = 1;
  }
  return y;
}

Mat Unreached(const Rule& rule, const Mat& x) {
  Mat y = Input(rule, x);
  for (int t = 0; t < y.rows && rule.biases; ++t) y(t, x.cols) = 0;
  return y;
}

Mat Features(const Rule& rule, const Mat& x) {
  if (!rule.biases) return x;
  Mat y(x.rows, x.cols - 1);
  for (int t = 0; t < x.rows; ++t)
    for (int i = 0; i < y.cols; ++i) y(t, i) = x(t, i);
  return y;
}

namespace {

Coefficients MakeCoefficients(const Inputs& in, int t0, int n) {
  Coefficients c{std::vector<double>(n),
                 std::vector<double>(n),
                 std::vector<double>(n),
                 Mat(n, n),
                 Mat(n, n),
                 Mat(n, n),
                 std::vector<double>(n, 1)};
  double a = 1, b = 0, e = 1;
  for (int t = 0; t < n; ++t) {
    const double keep = 1 - in.alpha[t0 + t], eta = in.eta[t0 + t];
    e *= eta;
    a *= keep;
    b = keep * b + e;
    c.a[t] = a, c.b[t] = b, c.e[t] = e;
    for (int s = 0; s <= t; ++s) {
      c.p(t, s) = s == t ? in.theta[t0 + t] : eta * c.p(t - 1, s);
      c.plain_g(t, s) = (s == t ? 0.0 : keep * c.plain_g(t - 1, s)) + c.p(t, s);
    }
    if (!in.row_scale.empty()) c.row[t] = std::max(0.0, 1.0 / (t + 1) + in.row_scale[t]);
  }
  c.g = ScaleRows(c.row, c.plain_g);
  return c;
}

void Clamp(const Rule& rule, Chunk& c) {
  c.norm2.assign(c.n, 0), c.factor.assign(c.n, 1);
  for (int t = 0; t < c.n && rule.clamp > 0; ++t) {
    for (int i = 0; i < rule.depth; ++i)
      c.norm2[t] += RowSquares(c.d[i], t) * RowSquares(c.h[i], t);
    c.factor[t] = 1 / std::sqrt(1 + c.norm2[t] / (rule.clamp * rule.clamp));
  }
  for (const Mat& d : c.d) c.clamped.push_back(ScaleRows(c.factor, d));
}

// err and the last delta from the network's raw output.
void KeyError(const Rule& rule, const Inputs& in, const Mat& o, Chunk& c, Mat& delta) {
  const int f = o.cols;
  c.err = Mat(c.n, f);
  delta = Mat(c.n, f);
  for (int t = 0; t < c.n; ++t) {
    NormStats st;
    if (rule.norm) st = Normalize(&o.v[static_cast<size_t>(t) * f], f, rule.epsilon);
    std::vector<double> gg(f);
    for (int i = 0; i < f; ++i) {
      const double pred = (rule.norm ? in.gain[i] * st.xhat[i] + in.bias[i] : o(t, i)) +
                          (rule.residual ? c.k(t, i) : 0.0);
      c.err(t, i) = pred - c.v(t, i);
      gg[i] = c.err(t, i) * (rule.norm ? in.gain[i] : 1.0);
    }
    if (rule.norm) {
      gg = Project(gg, st.xhat);
      for (double& x : gg) x *= st.r;
    }
    for (int i = 0; i < f; ++i) delta(t, i) = gg[i];
  }
}

}  // namespace

Chunk RunChunk(const Rule& rule, const Inputs& in, const State& state, int t0, Mat* y) {
  const int depth = rule.depth, n = std::min(rule.chunk, in.q.rows - t0), f = in.q.cols;
  Chunk c{t0,
          n,
          Rows(in.q, t0, n),
          Rows(in.k, t0, n),
          Rows(in.v, t0, n),
          MakeCoefficients(in, t0, n),
          state,
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {},
          {}};
  c.h.push_back(Input(rule, c.k));
  for (int i = 0; i < depth; ++i) {
    c.z.push_back(Product(c.h[i], false, state.w[i], true));
    if (i + 1 < depth) c.h.push_back(Input(rule, Values(rule, c.z[i])));
  }
  c.d.resize(depth);
  c.u.resize(depth);
  KeyError(rule, in, c.z[depth - 1], c, c.d[depth - 1]);
  for (int i = depth - 2; i >= 0; --i) {
    c.u[i] = Features(rule, Product(c.d[i + 1], false, state.w[i + 1], false));
    c.d[i] = Hadamard(c.u[i], Slopes(rule, c.z[i]));
  }
  Clamp(rule, c);
  c.x.push_back(Input(rule, c.q));
  for (int i = 0; i < depth; ++i) {
    c.qw.push_back(Product(c.x[i], false, state.w[i], true));
    c.qs.push_back(Product(c.x[i], false, state.s[i], true));
    c.r.push_back(Product(c.x[i], false, c.h[i], true));
    Mat z = ScaleRows(c.c.a, c.qw[i]);
    Axpy(z, 1, ScaleRows(c.c.b, c.qs[i]));
    if (rule.towards_initial) {
      c.q0.push_back(Product(c.x[i], false, in.initial[i], true));
      Axpy(z, 1, ScaleRows(Fade(rule, c.c), c.q0[i]));
    }
    Add(z, Hadamard(c.c.g, c.r[i]), false, c.clamped[i], false, -1);
    c.zq.push_back(z);
    if (i + 1 < depth) c.x.push_back(Input(rule, Values(rule, z)));
  }
  if (y == nullptr) return c;
  for (int t = 0; t < n; ++t) {
    const Mat& z = c.zq[depth - 1];
    NormStats st;
    if (rule.norm) st = Normalize(&z.v[static_cast<size_t>(t) * f], f, rule.epsilon);
    for (int i = 0; i < f; ++i)
      (*y)(t0 + t, i) = (rule.norm ? in.gain[i] * st.xhat[i] + in.bias[i] : z(t, i)) +
                        (rule.residual ? c.q(t, i) : 0.0);
  }
  return c;
}

State NextState(const Rule& rule, const Inputs& in, const Chunk& c) {
  State next = c.state;
  const int last = c.n - 1;
  std::vector<double> g(c.n), p(c.n);
  for (int s = 0; s < c.n; ++s) g[s] = c.c.g(last, s), p[s] = c.c.p(last, s);
  for (int i = 0; i < rule.depth; ++i) {
    for (double& x : next.w[i].v) x *= c.c.a[last];
    Axpy(next.w[i], c.c.b[last], c.state.s[i]);
    if (rule.towards_initial) Axpy(next.w[i], 1 - c.c.a[last], in.initial[i]);
    Add(next.w[i], c.clamped[i], true, ScaleRows(g, c.h[i]), false, -1);
    for (double& x : next.s[i].v) x *= c.c.e[last];
    Add(next.s[i], c.clamped[i], true, ScaleRows(p, c.h[i]), false, -1);
  }
  return next;
}

}  // namespace mnemo::memory_reference
