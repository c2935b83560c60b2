// The references against finite differences and against numbers worked out by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/reference/reference_attention.h"
#include "tests/reference/reference_layers.h"
#include "tests/reference/reference_memory.h"

namespace mnemo::reference {
namespace {

// Smooth, without symmetry, of order one.
double Wave(int i) { return std::sin(1.7 * i + 0.3) + 0.1 * std::cos(5.1 * i); }

Matrix Waves(int rows, int cols, int seed) {
  Matrix out(rows, cols);
  for (std::size_t i = 0; i < out.data.size(); ++i) {
    out.data[i] = Wave(seed + static_cast<int>(i));
  }
  return out;
}

double Loss(const MemoryRule& rule, const MemoryHead& head, const MemoryWeights& weights,
            const Vector& k, const Vector& v) {
  const Vector read = MemoryRead(rule, head, weights, k);
  double sum = 0;
  for (std::size_t i = 0; i < v.size(); ++i) sum += 0.5 * (read[i] - v[i]) * (read[i] - v[i]);
  return sum;
}

TEST(ReferenceMemory, InnerGradientIsTheDerivativeOfTheLoss) {
  constexpr int kWidth = 4, kHidden = 6;
  constexpr double kStep = 1e-5;  // truncation ~ step^2, rounding ~ 1e-16 / step
  const Vector k = Waves(1, kWidth, 90).data, v = Waves(1, kWidth, 70).data;
  for (int option = 0; option < 64; ++option) {
    MemoryRule rule;
    rule.activation = option & 1 ? Activation::kSilu : Activation::kGelu;
    rule.residual = option & 2;
    rule.layer_norm = option & 4;
    const int depth = 1 + option / 16;
    MemoryHead head;
    head.ln_gain = Waves(1, kWidth, 20).data;
    head.ln_bias = Waves(1, kWidth, 30).data;
    for (int i = 0; i < depth; ++i) {
      const int in = i == 0 ? kWidth : kHidden, out = i + 1 == depth ? kWidth : kHidden;
      head.initial.w.push_back(Waves(out, in, 100 * i));
      if (option & 8) head.initial.c.push_back(Waves(out, 1, 50 + i));
    }
    const MemoryWeights u = InnerGradient(rule, head, head.initial, k, v);
    MemoryWeights moved = head.initial;
    auto check = [&](Matrix& m, const Matrix& gradient) {
      for (std::size_t i = 0; i < m.data.size(); ++i) {
        const double at = m.data[i];
        m.data[i] = at + kStep;
        const double above = Loss(rule, head, moved, k, v);
        m.data[i] = at - kStep;
        const double below = Loss(rule, head, moved, k, v);
        m.data[i] = at;
        const double slope = (above - below) / (2 * kStep);
        EXPECT_NEAR(gradient.data[i], slope, 1e-6 * (1 + std::fabs(slope))) << "option " << option;
      }
    };
    for (int i = 0; i < depth; ++i) check(moved.w[i], u.w[i]);
    for (std::size_t i = 0; i < u.c.size(); ++i) check(moved.c[i], u.c[i]);
  }
}

// A memory of one number: f(x) = w x. Chunk of two, W_0 = 1, S_0 = 0, k = 1, so that u = W_c - v.
TEST(ReferenceMemory, OneNumberByHand) {
  MemoryRule rule;
  rule.chunk = 2;
  rule.residual = rule.layer_norm = false;
  MemoryHead head;
  head.initial.w.assign(1, Matrix(1, 1));
  head.initial.w[0].data = {1};
  MemoryInputs inputs;
  inputs.q = inputs.k = inputs.v = Matrix(3, 1);
  inputs.q.data = {1, 1, 1};
  inputs.k.data = {1, 1, 1};
  inputs.v.data = {3, 2, 0};
  inputs.theta = {0.5, 0.25, 1};
  inputs.eta = {0.5, 0.5, 0.5};
  inputs.alpha = {0.5, 0.25, 0};
  // u_1 = -2, S_1 = 1, W_1 = .5 + 1; u_2 = -1, S_2 = .5 + .25, W_2 = .75 * 1.5 + .75;
  // then W_c = W_2 = 1.875: u_3 = 1.875, S_3 = .375 - 1.875, W_3 = 1.875 - 1.5.
  const MemoryOutput plain = RunMemory(rule, head, inputs);
  EXPECT_EQ(plain.y.data, (Vector{1.5, 1.875, 0.375}));
  EXPECT_EQ(plain.last.s.w[0].data, (Vector{-1.5}));
  // Row scale: r = 1 and 1/2 - 1/4. Written in the chunk: -1, then -(.75 * 1 + .75) = -1.5, on top
  // of A_2 W_c = .375. So W_2 = .375 + .25 * 1.5, and S is as before.
  head.row_scale = {0, -0.25};
  const MemoryOutput scaled = RunMemory(rule, head, inputs);
  EXPECT_EQ(scaled.y.data, (Vector{1.5, 0.75, 0.75 + 0.375 - 0.75}));
  head.row_scale.clear();
  // Towards W_0 = 1: W_1 = 1.5 + .5, W_2 = .75 * 2 + .75 + .25; a reset at chunk 1 starts at 1.
  rule.forgetting = Forgetting::kInitial;
  const MemoryOutput reset = RunMemory(rule, head, inputs, nullptr, {false, true});
  EXPECT_EQ(reset.y.data, (Vector{2, 2.5, 0}));
  // Clamp at 2: n = 2 gives the factor 1 / sqrt(1 + 4/4) and is no hit. Then n = 1, and W_2 = 2.11
  // is the gradient of token 3: the only hit.
  rule.clamp = 2;
  const MemoryOutput clamped = RunMemory(rule, head, inputs);
  EXPECT_NEAR(clamped.y.data[0], 1 + std::sqrt(0.5), 4 * std::numeric_limits<double>::epsilon());
  EXPECT_EQ(clamped.clamp_hits, 1);
}

// With queries of zero all scores are equal: attention is the mean of what is seen.
TEST(ReferenceAttention, WindowAndPersistentTokens) {
  BlockOptions options;
  BlockWeights weights;
  weights.aq = Matrix(2, 2);
  weights.ak = weights.av = Matrix(2, 2);
  weights.av(0, 0) = weights.av(1, 1) = 1;
  Matrix x(4, 2), persistent(1, 2);
  x.data = {1, 0, 2, 0, 4, 0, 8, 0};
  persistent.data = {16, 1};
  const Matrix a = Attention(options, weights, x, {{persistent, true}, {x, false}}, 2, 0);
  const Vector expected = {17.0 / 2, 1.0 / 2, 19.0 / 3, 1.0 / 3,
                           22.0 / 3, 1.0 / 3, 28.0 / 3, 1.0 / 3};
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(a.data[i], expected[i], 1e-14);
}

TEST(ReferenceLayers, ConvolutionLooksBackThreeTokens) {
  Matrix x(5, 1), w(1, 4);
  x.data = {1, 10, 100, 1000, 10000};
  w.data = {1, 2, 3, 4};
  EXPECT_EQ(CausalConv(x, w).data, (Vector{4, 43, 432, 4321, 43210}));
}

}  // namespace
}  // namespace mnemo::reference
