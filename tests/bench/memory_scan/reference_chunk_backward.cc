#include <cmath>
#include <utility>

#include "tests/bench/memory_scan/reference_chunk.h"

namespace mnemo::memory_reference {
namespace {

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

}  // namespace

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

}  // namespace mnemo::memory_reference
