#include "tests/reference/reference_lmm.h"

#include "tests/reference/reference_layers.h"

namespace mnemo::reference {
namespace {

// SiLU(conv(x w^T)).
Matrix Project(const Matrix& x, const Matrix& w, const Matrix& conv) {
  return Map(Silu, CausalConv(Linear(x, w), conv));
}

// max * sigmoid(x w^T + bias) for head h: one number a token.
Vector Gate(const Matrix& x, const Matrix& w, const Vector& bias, int h, double max) {
  Vector out(x.rows, 0.0);
  for (int t = 0; t < x.rows; ++t) {
    double z = bias[h];
    for (int i = 0; i < x.cols; ++i) z += w(h, i) * x(t, i);
    out[t] = max * Sigmoid(z);
  }
  return out;
}

Vector Part(const Vector& x, int begin, int end) {
  return x.empty() ? x : Vector(x.begin() + begin, x.begin() + end);
}

}  // namespace

std::vector<MemoryInputs> ProjectInputs(const BlockOptions& options, const BlockWeights& weights,
                                        const Matrix& x) {
  const int f = x.cols / options.heads;
  const bool shared = weights.wk.rows == 0;
  Matrix q = Project(x, weights.wq, weights.conv_q);
  Matrix k = Project(x, shared ? weights.wq : weights.wk, weights.conv_k);
  const Matrix v = Project(x, weights.wv, weights.conv_v);
  if (options.qk_l2_norm) {
    q = L2Norm(q, options.heads, options.epsilon);
    k = L2Norm(k, options.heads, options.epsilon);
  }
  std::vector<MemoryInputs> out(options.heads);
  for (int h = 0; h < options.heads; ++h) {
    out[h].q = Slice(q, 0, x.rows, h * f, f);
    out[h].k = Slice(k, 0, x.rows, h * f, f);
    out[h].v = Slice(v, 0, x.rows, h * f, f);
    out[h].theta = Gate(x, weights.w_theta, weights.theta_bias, h, options.theta_max);
    if (options.rule.forgetting != Forgetting::kOff) {
      out[h].alpha = Gate(x, weights.w_alpha, weights.alpha_bias, h, options.alpha_max);
    }
    if (options.rule.momentum) {
      out[h].eta = Gate(x, weights.w_eta, weights.eta_bias, h, options.eta_max);
      for (int t = 0; t < x.rows; ++t) out[h].theta[t] *= options.ema ? 1 - out[h].eta[t] : 1;
    }
  }
  return out;
}

Matrix RunHeads(const BlockOptions& options, const BlockWeights& weights,
                const std::vector<MemoryInputs>& inputs, int begin, int end,
                std::vector<MemoryState>& states) {
  const int f = inputs[0].q.cols;
  Matrix y(end - begin, options.heads * f);
  for (int h = 0; h < options.heads; ++h) {
    const MemoryInputs& all = inputs[h];
    const MemoryInputs part = {Rows(all.q, begin, end),   Rows(all.k, begin, end),
                               Rows(all.v, begin, end),   Part(all.theta, begin, end),
                               Part(all.eta, begin, end), Part(all.alpha, begin, end)};
    const MemoryOutput out = RunMemory(options.rule, weights.memory[h], part, &states[h]);
    Paste(y, 0, h * f, out.y);
    states[h] = out.last;
  }
  return y;
}

std::vector<MemoryState> FirstStates(const BlockWeights& weights) {
  std::vector<MemoryState> states;
  for (const MemoryHead& head : weights.memory) states.push_back(FirstState(head));
  return states;
}

Matrix MemoryOverRows(const BlockOptions& options, const BlockWeights& weights, const Matrix& x) {
  std::vector<MemoryState> states = FirstStates(weights);
  return RunHeads(options, weights, ProjectInputs(options, weights, x), 0, x.rows, states);
}

Matrix GatedMemory(const BlockOptions& options, const BlockWeights& weights, const Matrix& x) {
  const Matrix y = MemoryOverRows(options, weights, x);
  const Matrix gate = Map(options.gelu_output_gate ? Gelu : Silu, Linear(x, weights.wg));
  return Multiply(RmsNorm(y, weights.read_norm, options.heads, options.epsilon), gate);
}

Matrix LmmMixer(const BlockOptions& options, const BlockWeights& weights, const Matrix& x) {
  return Linear(GatedMemory(options, weights, x), weights.wo);
}

}  // namespace mnemo::reference
