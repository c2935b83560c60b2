#include "tests/bench/memory_scan/reference.h"

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

struct NormStats {
  double r;
  std::vector<double> xhat;
};

NormStats Normalize(const double* x, int n, double epsilon) {
  double mean = 0, var = 0;
  for (int i = 0; i < n; ++i) mean += x[i] / n;
  for (int i = 0; i < n; ++i) var += (x[i] - mean) * (x[i] - mean) / n;
  NormStats s{1 / std::sqrt(var + epsilon), std::vector<double>(n)};
  for (int i = 0; i < n; ++i) s.xhat[i] = (x[i] - mean) * s.r;
  return s;
}

// x -> x - mean(x) - xhat mean(x o xhat)
std::vector<double> Project(const std::vector<double>& x, const std::vector<double>& xhat) {
  const int n = static_cast<int>(x.size());
  double m1 = 0, m2 = 0;
  for (int i = 0; i < n; ++i) m1 += x[i] / n, m2 += x[i] * xhat[i] / n;
  std::vector<double> y(n);
  for (int i = 0; i < n; ++i) y[i] = x[i] - m1 - xhat[i] * m2;
  return y;
}

struct Coefficients {
  std::vector<double> a, b, e;
  Mat g, p;
  Mat plain_g;              // before its rows are scaled
  std::vector<double> row;  // what with
};

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

// Everything one chunk computes going forward; the backward pass needs all of it.
struct Chunk {
  int t0, n;
  Mat q, k, v;
  Coefficients c;
  State state;                        // at the chunk's start
  std::vector<Mat> h, z, u, d;        // keys: h[i] input of layer i, z its output, d the delta
  std::vector<Mat> x, zq, qw, qs, r;  // reads
  Mat err;
  std::vector<double> norm2,
      factor;                // of the inner gradient; what the clamp multiplies it with
  std::vector<Mat> clamped;  // d, clamped: what is read and written
  std::vector<Mat> q0;       // reads through W_0
};

double RowSquares(const Mat& a, int row) {
  double sum = 0;
  for (int j = 0; j < a.cols; ++j) sum += a(row, j) * a(row, j);
  return sum;
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

// The adjoints of the clamped deltas -> those of the deltas, and what their inputs get.
void ClampBackward(const Rule& rule, const Chunk& c, std::vector<Mat>& dd, std::vector<Mat>& dh) {
  if (!(rule.clamp > 0)) return;
  std::vector<double> dfactor(c.n), scale(c.n);
  for (int i = 0; i < rule.depth; ++i) AddRowDots(dfactor, 1, dd[i], c.d[i]);
  for (int t = 0; t < c.n; ++t)
    scale[t] = -dfactor[t] * std::pow(c.factor[t], 3) / (rule.clamp * rule.clamp);  // 2 dL/dn^2
  for (int i = 0; i < rule.depth; ++i) {
    for (int t = 0; t < c.n; ++t) {
      const double h2 = RowSquares(c.h[i], t), d2 = RowSquares(c.d[i], t);
      for (int j = 0; j < c.d[i].cols; ++j)
        dd[i](t, j) = c.factor[t] * dd[i](t, j) + scale[t] * h2 * c.d[i](t, j);
      for (int j = 0; j < c.h[i].cols; ++j) dh[i](t, j) += scale[t] * d2 * c.h[i](t, j);
    }
  }
}

// 1 - A_t where the rule forgets towards W_0.
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

// With biases: a column of ones behind an input's features, and back.
Mat Input(const Rule& rule, const Mat& x) {
  if (!rule.biases) return x;
  Mat y(x.rows, x.cols + 1);
  for (int t = 0; t < x.rows; ++t) {
    for (int i = 0; i < x.cols; ++i) y(t, i) = x(t, i);
    y(t, x.cols) = 1;
  }
  return y;
}

// A column of zeros: what reaches the inputs does not reach the ones.
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

// Adjoints of the chunk coefficients.
struct CoefficientGradients {
  std::vector<double> a, b, e;
  Mat g, p;
};

void CoefficientsBackward(const Inputs& in, const Chunk& c, CoefficientGradients d,
                          Gradients& out) {
  const Coefficients& k = c.c;
  for (int t = 0; t < c.n && !in.row_scale.empty(); ++t) {
    for (int s = 0; s <= t; ++s) {
      if (k.row[t] > 0) out.row_scale[t] += d.g(t, s) * k.plain_g(t, s);
      d.g(t, s) *= k.row[t];
    }
  }
  for (int t = c.n - 1; t >= 0; --t) {
    const double keep = 1 - in.alpha[c.t0 + t], eta = in.eta[c.t0 + t];
    const double a0 = t ? k.a[t - 1] : 1, b0 = t ? k.b[t - 1] : 0, e0 = t ? k.e[t - 1] : 1;
    double& dalpha = out.alpha[c.t0 + t];
    double& deta = out.eta[c.t0 + t];
    dalpha -= d.a[t] * a0 + d.b[t] * b0;
    d.e[t] += d.b[t];
    deta += d.e[t] * e0;
    if (t) {
      d.a[t - 1] += keep * d.a[t];
      d.b[t - 1] += keep * d.b[t];
      d.e[t - 1] += eta * d.e[t];
    }
    for (int s = 0; s <= t; ++s) {
      d.p(t, s) += d.g(t, s);
      if (s == t) {
        out.theta[c.t0 + t] += d.p(t, s);
        continue;
      }
      dalpha -= d.g(t, s) * k.plain_g(t - 1, s);
      d.g(t - 1, s) += keep * d.g(t, s);
      deta += d.p(t, s) * k.p(t - 1, s);
      d.p(t - 1, s) += eta * d.p(t, s);
    }
  }
}

// Adjoint of the layer norm at the network's end: dy -> dz. Adds to the norm's gradients.
Mat NormBackward(const Rule& rule, const Inputs& in, const Mat& z, const Mat& dy, Gradients& out) {
  if (!rule.norm) return dy;
  const int f = z.cols;
  Mat dz(z.rows, f);
  for (int t = 0; t < z.rows; ++t) {
    const NormStats st = Normalize(&z.v[static_cast<size_t>(t) * f], f, rule.epsilon);
    std::vector<double> gg(f);
    for (int i = 0; i < f; ++i) {
      gg[i] = dy(t, i) * in.gain[i];
      out.gain[i] += dy(t, i) * st.xhat[i];
      out.bias[i] += dy(t, i);
    }
    gg = Project(gg, st.xhat);
    for (int i = 0; i < f; ++i) dz(t, i) = gg[i] * st.r;
  }
  return dz;
}

// Adjoint of KeyError: the delta's adjoint -> adjoints of o and of err.
void KeyErrorBackward(const Rule& rule, const Inputs& in, const Chunk& c, const Mat& ddelta,
                      Mat& d_o, Mat& derr, Gradients& out) {
  const Mat& o = c.z[rule.depth - 1];
  const int f = o.cols;
  d_o = ddelta;
  derr = ddelta;
  if (!rule.norm) return;
  for (int t = 0; t < c.n; ++t) {
    const NormStats st = Normalize(&o.v[static_cast<size_t>(t) * f], f, rule.epsilon);
    std::vector<double> ds(f), gg(f), dx(f);
    double dd = 0, n2 = 0, m2 = 0;
    for (int i = 0; i < f; ++i) {
      ds[i] = st.r * ddelta(t, i);
      gg[i] = c.err(t, i) * in.gain[i];
      dd += ddelta(t, i) * c.d[rule.depth - 1](t, i);
      n2 += ds[i] * st.xhat[i] / f;
      m2 += gg[i] * st.xhat[i] / f;
    }
    const std::vector<double> dgg = Project(ds, st.xhat);
    for (int i = 0; i < f; ++i) {
      const double de = dgg[i] * in.gain[i];
      derr(t, i) = de;
      out.gain[i] += dgg[i] * c.err(t, i) + de * st.xhat[i];
      out.bias[i] += de;
      dx[i] = de * in.gain[i] - ds[i] * m2 - gg[i] * n2;
    }
    const std::vector<double> px = Project(dx, st.xhat);
    for (int i = 0; i < f; ++i) d_o(t, i) = st.r * px[i] - st.r * st.xhat[i] * dd / f;
  }
}

// Backward of one chunk: `dstate` is the adjoint of the state after it, then of the state before.
void ChunkBackward(const Rule& rule, const Inputs& in, const Chunk& c, const Mat& dy, State& dstate,
                   Gradients& out) {
  const int depth = rule.depth, n = c.n, f = in.q.cols, last = n - 1;
  CoefficientGradients dc{std::vector<double>(n), std::vector<double>(n), std::vector<double>(n),
                          Mat(n, n), Mat(n, n)};
  State dprev = c.state;
  std::vector<Mat> dd, dh;
  for (int i = 0; i < depth; ++i) {
    std::fill(dprev.w[i].v.begin(), dprev.w[i].v.end(), 0.0);
    std::fill(dprev.s[i].v.begin(), dprev.s[i].v.end(), 0.0);
    dd.emplace_back(n, c.d[i].cols);
    dh.emplace_back(n, c.h[i].cols);
  }
  // Reads.
  Mat dz = NormBackward(rule, in, c.zq[depth - 1], dy, out);
  for (int i = depth - 1; i >= 0; --i) {
    AddRowDots(dc.a, 1, dz, c.qw[i]);
    AddRowDots(dc.b, 1, dz, c.qs[i]);
    const Mat t = Product(dz, false, c.clamped[i], true), m = Hadamard(c.c.g, t);
    Axpy(dc.g, -1, Hadamard(c.r[i], t));
    Add(dd[i], Hadamard(c.c.g, c.r[i]), true, dz, false, -1);
    Add(dh[i], m, true, c.x[i], false, -1);
    const Mat az = ScaleRows(c.c.a, dz), bz = ScaleRows(c.c.b, dz);
    Add(dprev.w[i], az, true, c.x[i], false);
    Add(dprev.s[i], bz, true, c.x[i], false);
    Mat dx = Product(az, false, c.state.w[i], false);
    Add(dx, bz, false, c.state.s[i], false);
    if (rule.towards_initial) {
      const Mat fz = ScaleRows(Fade(rule, c.c), dz);
      AddRowDots(dc.a, -1, dz, c.q0[i]);
      Add(dx, fz, false, in.initial[i], false);
      Add(out.initial[i], fz, true, c.x[i], false);
    }
    Add(dx, m, false, c.h[i], false, -1);
    dx = Features(rule, dx);
    if (i > 0) {
      dz = Hadamard(dx, Slopes(rule, c.zq[i - 1]));
      continue;
    }
    for (int t2 = 0; t2 < n; ++t2)
      for (int j = 0; j < f; ++j)
        out.q(c.t0 + t2, j) = dx(t2, j) + (rule.residual ? dy(t2, j) : 0.0);
  }
  // The state at the chunk's end.
  std::vector<double> g(n), p(n), dg(n), dp(n);
  for (int s = 0; s < n; ++s) g[s] = c.c.g(last, s), p[s] = c.c.p(last, s);
  for (int i = 0; i < depth; ++i) {
    const Mat hw = Product(c.h[i], false, dstate.w[i], true);
    const Mat hs = Product(c.h[i], false, dstate.s[i], true);
    AddRowDots(dg, -1, c.clamped[i], hw);
    AddRowDots(dp, -1, c.clamped[i], hs);
    Axpy(dd[i], -1, ScaleRows(g, hw));
    Axpy(dd[i], -1, ScaleRows(p, hs));
    Add(dh[i], ScaleRows(g, c.clamped[i]), false, dstate.w[i], false, -1);
    Add(dh[i], ScaleRows(p, c.clamped[i]), false, dstate.s[i], false, -1);
    dc.a[last] += Dot(dstate.w[i], c.state.w[i]);
    dc.b[last] += Dot(dstate.w[i], c.state.s[i]);
    dc.e[last] += Dot(dstate.s[i], c.state.s[i]);
    Axpy(dprev.w[i], c.c.a[last], dstate.w[i]);
    Axpy(dprev.s[i], c.c.b[last], dstate.w[i]);
    Axpy(dprev.s[i], c.c.e[last], dstate.s[i]);
    if (rule.towards_initial) {
      dc.a[last] -= Dot(dstate.w[i], in.initial[i]);
      Axpy(out.initial[i], 1 - c.c.a[last], dstate.w[i]);
    }
  }
  ClampBackward(rule, c, dd, dh);
  for (int s = 0; s < n; ++s) dc.g(last, s) += dg[s], dc.p(last, s) += dp[s];
  // Keys: up through the deltas, then down through the network.
  std::vector<Mat> dz_extra(depth);
  for (int i = 0; i + 1 < depth; ++i) {
    const Mat du = Hadamard(dd[i], Slopes(rule, c.z[i]));
    dz_extra[i] = Hadamard(Hadamard(dd[i], c.u[i]), Curves(rule, c.z[i]));
    const Mat reached = Unreached(rule, du);
    Add(dd[i + 1], reached, false, c.state.w[i + 1], true);
    Add(dprev.w[i + 1], c.d[i + 1], true, reached, false);
  }
  Mat d_o, derr;
  KeyErrorBackward(rule, in, c, dd[depth - 1], d_o, derr, out);
  Mat dzk = d_o;
  for (int i = depth - 1; i >= 0; --i) {
    Add(dprev.w[i], dzk, true, c.h[i], false);
    Add(dh[i], dzk, false, c.state.w[i], false);
    if (i == 0) break;
    dzk = Hadamard(Features(rule, dh[i]), Slopes(rule, c.z[i - 1]));
    Axpy(dzk, 1, dz_extra[i - 1]);
  }
  for (int t = 0; t < n; ++t) {
    for (int j = 0; j < f; ++j) {
      out.k(c.t0 + t, j) = dh[0](t, j) + (rule.residual ? derr(t, j) : 0.0);
      out.v(c.t0 + t, j) = -derr(t, j);
    }
  }
  CoefficientsBackward(in, c, std::move(dc), out);
  dstate = std::move(dprev);
}

}  // namespace

namespace {

bool Resets(const Rule& rule, const Inputs& in, int t0) {
  return !in.resets.empty() && in.resets[t0 / rule.chunk];
}

// To W_0, S = 0, where the chunk that begins at t0 is to begin there.
void Reset(const Rule& rule, const Inputs& in, int t0, State& state) {
  if (!Resets(rule, in, t0)) return;
  state.w = in.initial;
  for (Mat& s : state.s) std::fill(s.v.begin(), s.v.end(), 0.0);
}

void ResetBackward(const Rule& rule, const Inputs& in, int t0, Gradients& out) {
  if (!Resets(rule, in, t0)) return;
  for (int i = 0; i < rule.depth; ++i) {
    Axpy(out.initial[i], 1, out.carry.w[i]);
    for (Mat* x : {&out.carry.w[i], &out.carry.s[i]}) std::fill(x->v.begin(), x->v.end(), 0.0);
  }
}

}  // namespace

Outputs Forward(const Rule& rule, const Inputs& in) {
  const RoundOperands rounding(rule.round_operands);
  Outputs out{Mat(in.q.rows, in.q.cols), in.carry, 0};
  for (int t = 0; t < in.q.rows; t += rule.chunk) {
    Reset(rule, in, t, out.carry);
    const Chunk chunk = RunChunk(rule, in, out.carry, t, &out.y);
    for (const double x : chunk.norm2) out.clamp_hits += x > rule.clamp * rule.clamp;
    out.carry = NextState(rule, in, chunk);
  }
  if (rule.round_operands) Round(out.y);
  return out;
}

Gradients Backward(const Rule& rule, const Inputs& in, const Mat& dy, const State& dcarry) {
  const RoundOperands rounding(rule.round_operands);
  const int tokens = in.q.rows, f = in.q.cols;
  std::vector<Chunk> chunks;
  State state = in.carry;
  for (int t = 0; t < tokens; t += rule.chunk) {
    Reset(rule, in, t, state);
    chunks.push_back(RunChunk(rule, in, state, t, nullptr));
    state = NextState(rule, in, chunks.back());
  }
  const std::vector<double> zero(tokens);
  Gradients out{Mat(tokens, f),
                Mat(tokens, f),
                Mat(tokens, f),
                zero,
                zero,
                zero,
                std::vector<double>(f),
                std::vector<double>(f),
                dcarry,
                {},
                std::vector<double>(in.row_scale.size())};
  for (const Mat& w : in.initial) out.initial.emplace_back(w.rows, w.cols);
  for (size_t i = chunks.size(); i-- > 0;) {
    ChunkBackward(rule, in, chunks[i], Rows(dy, chunks[i].t0, chunks[i].n), out.carry, out);
    ResetBackward(rule, in, chunks[i].t0, out);
  }
  if (rule.round_operands) Round(out.q), Round(out.k), Round(out.v);
  return out;
}

}  // namespace mnemo::memory_reference
