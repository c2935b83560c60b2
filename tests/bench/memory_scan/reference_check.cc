// Compares the reference's hand-derived backward with central differences. No GPU needed.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>

#include "tests/bench/memory_scan/reference.h"

namespace mnemo::memory_reference {
namespace {

std::mt19937_64 generator(7);

void Fill(std::vector<double>& v, double scale) {
  std::normal_distribution<double> normal(0, scale);
  for (double& x : v) x = normal(generator);
}

void FillUniform(std::vector<double>& v, double low, double high) {
  std::uniform_real_distribution<double> uniform(low, high);
  for (double& x : v) x = uniform(generator);
}

Inputs MakeInputs(const Rule& rule, int tokens, int f, int m, bool resets, bool row_scale) {
  Inputs in{Mat(tokens, f), Mat(tokens, f), Mat(tokens, f), {}, {}, {}, {}, {}, {}, {}, {}, {}};
  Fill(in.q.v, 0.5), Fill(in.k.v, 0.5), Fill(in.v.v, 0.5);
  in.theta.resize(tokens), in.eta.resize(tokens), in.alpha.resize(tokens);
  FillUniform(in.theta, 0.02, 0.2), FillUniform(in.eta, 0.1, 0.9), FillUniform(in.alpha, 0, 0.2);
  in.gain.assign(f, 0), in.bias.assign(f, 0);
  FillUniform(in.gain, 0.7, 1.3), Fill(in.bias, 0.1);
  for (int i = 0; i < rule.depth; ++i) {
    const int rows = i + 1 < rule.depth ? m : f, cols = (i ? m : f) + (rule.biases ? 1 : 0);
    in.carry.w.emplace_back(rows, cols), Fill(in.carry.w[i].v, 1 / std::sqrt(cols));
    in.carry.s.emplace_back(rows, cols), Fill(in.carry.s[i].v, 0.1);
    in.initial.emplace_back(rows, cols), Fill(in.initial[i].v, 1 / std::sqrt(cols));
  }
  if (resets) in.resets = {false, true, false};
  if (row_scale) {
    in.row_scale.resize(rule.chunk);
    FillUniform(in.row_scale, -0.1, 0.4);
    in.row_scale[2] = -1;  // this row of G is zero
  }
  return in;
}

double Loss(const Rule& rule, const Inputs& in, const Mat& dy, const State& dcarry) {
  const Outputs out = Forward(rule, in);
  double sum = 0;
  for (size_t i = 0; i < dy.v.size(); ++i) sum += dy.v[i] * out.y.v[i];
  for (int l = 0; l < rule.depth; ++l) {
    for (size_t i = 0; i < dcarry.w[l].v.size(); ++i) {
      sum += dcarry.w[l].v[i] * out.carry.w[l].v[i] + dcarry.s[l].v[i] * out.carry.s[l].v[i];
    }
  }
  return sum;
}

// Largest error over all coordinates of `x`, relative to the largest gradient of that tensor.
double Compare(std::vector<double>& x, const std::vector<double>& gradient,
               const std::function<double()>& loss) {
  double worst = 0, largest = 1e-12;
  for (size_t i = 0; i < x.size(); ++i) {
    const double keep = x[i], h = 1e-6;
    x[i] = keep + h;
    const double up = loss();
    x[i] = keep - h;
    const double down = loss();
    x[i] = keep;
    worst = std::max(worst, std::fabs((up - down) / (2 * h) - gradient[i]));
    largest = std::max(largest, std::fabs(gradient[i]));
  }
  return worst / largest;
}

double CheckRule(const Rule& rule, bool resets, bool row_scale) {
  const int tokens = 13, f = 5, m = 7;
  Inputs in = MakeInputs(rule, tokens, f, m, resets, row_scale);
  Mat dy(tokens, f);
  Fill(dy.v, 1);
  State dcarry = in.carry;
  for (int i = 0; i < rule.depth; ++i) Fill(dcarry.w[i].v, 1), Fill(dcarry.s[i].v, 1);
  const Gradients g = Backward(rule, in, dy, dcarry);
  const auto loss = [&] { return Loss(rule, in, dy, dcarry); };
  double worst = 0;
  const auto compare = [&](std::vector<double>& x, const std::vector<double>& gradient) {
    worst = std::max(worst, Compare(x, gradient, loss));
  };
  compare(in.q.v, g.q.v), compare(in.k.v, g.k.v), compare(in.v.v, g.v.v);
  compare(in.theta, g.theta), compare(in.eta, g.eta), compare(in.alpha, g.alpha);
  if (rule.norm) compare(in.gain, g.gain), compare(in.bias, g.bias);
  if (row_scale) compare(in.row_scale, g.row_scale);
  for (int i = 0; i < rule.depth; ++i) {
    compare(in.carry.w[i].v, g.carry.w[i].v), compare(in.carry.s[i].v, g.carry.s[i].v);
    compare(in.initial[i].v, g.initial[i].v);
  }
  return worst;
}

}  // namespace
}  // namespace mnemo::memory_reference

int main() {
  using namespace mnemo::memory_reference;
  // With a step h of 1e-6 the truncation, h^2 times a third derivative that the layer norm makes
  // large where a row hardly varies, reached 4e-7 here; cancellation leaves 1e-9. Anything above
  // 1e-5 is a wrong term.
  bool good = true;
  for (int depth = 1; depth <= 3; ++depth) {
    for (int bits = 0; bits < 128; ++bits) {
      const Rule rule{depth,
                      5,
                      (bits & 1) != 0,
                      (bits & 2) != 0,
                      1e-6,
                      (bits & 4) != 0,
                      false,
                      (bits & 8) != 0,
                      (bits & 16) != 0 ? 0.7 : 0,
                      (bits & 32) != 0};
      const bool row_scale = (bits & 64) != 0;
      const bool resets = (bits >> 3) % 3 != 0;
      const double error = CheckRule(rule, resets, row_scale);
      std::printf(
          "depth %d norm %d residual %d gelu %d initial %d clamp %.1f "
          "resets %d biases %d row scale %d: %.1e\n",
          depth, rule.norm, rule.residual, rule.gelu, rule.towards_initial, rule.clamp, resets,
          rule.biases, row_scale, error);
      good = good && error < 1e-5;
    }
  }
  std::printf(good ? "ok\n" : "FAILED\n");
  return good ? 0 : 1;
}
