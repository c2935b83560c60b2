#include "tests/core/naive_memory.h"

#include <functional>

#include "src/core/ops.h"

namespace mnemo::testing {
namespace {

using Weights = std::vector<Var>;  // all matrices, then all biases

// Weight by weight.
Weights Map(const Weights& a, const Weights& b,
            const std::function<Var(const Var&, const Var&)>& f) {
  Weights result;
  for (size_t i = 0; i < a.size(); ++i) result.push_back(f(a[i], b[i]));
  return result;
}

Weights Flat(const MemoryWeights& weights) {
  Weights flat = weights.w;
  flat.insert(flat.end(), weights.c.begin(), weights.c.end());
  return flat;
}

MemoryWeights Structured(const MemoryRule& rule, const Weights& flat) {
  return {{flat.begin(), flat.begin() + rule.depth}, {flat.begin() + rule.depth, flat.end()}};
}

Weights Zeros(const Weights& like) {
  return Map(like, like, [](const Var& x, const Var&) {
    return Var(Tensor::Zeros(x.shape(), x.dtype(), x.device()));
  });
}

// f_W(x).
Var Network(const MemoryRule& rule, const MemoryParameters& parameters, const Weights& weights,
            const Var& x) {
  Var h = x;
  for (int i = 0; i < rule.depth; ++i) {
    h = MatMul(h, Transpose(weights[i]));
    if (rule.biases) h = h + weights[rule.depth + i];
    if (i + 1 < rule.depth) h = rule.activation == MemoryActivation::kSilu ? Silu(h) : Gelu(h);
  }
  if (rule.layer_norm) {
    const Var centered = h - Mean(h, -1);
    const Var deviation = Sqrt(Affine(Mean(centered * centered, -1), 1, rule.epsilon));
    h = Div(centered, deviation) * parameters.norm_weight + parameters.norm_bias;
  }
  return rule.residual ? x + h : h;
}

// grad_W 1/2 |f_W(k) - v|^2, then the clamp.
Weights InnerGradient(Tape& tape, const MemoryRule& rule, const MemoryParameters& parameters,
                      const Weights& weights, const Var& k, const Var& v) {
  const Var loss = Scale(SumAll(Square(Network(rule, parameters, weights, k) - v)), 0.5);
  const Var one(Tensor::Full({}, 1, loss.dtype(), loss.device()));
  Weights u = tape.GradientRecorded({&loss, 1}, {&one, 1}, weights);
  if (rule.clamp <= 0) return u;
  Var squared;
  for (const Var& x : u) {
    const Var sum = SumTo(Square(x), {x.dim(0), x.dim(1), 1, 1});
    squared = squared.defined() ? squared + sum : sum;
  }
  const Var factor = Reciprocal(Sqrt(Affine(squared, 1 / (rule.clamp * rule.clamp), 1)));
  return Map(u, u, [&](const Var& x, const Var&) { return x * factor; });
}

class Walk {
 public:
  Walk(Tape& tape, const MemoryRule& rule, const MemoryParameters& parameters,
       const MemoryState& state)
      : tape_(tape), rule_(rule), parameters_(parameters), w_(Flat(state.w)), s_(Flat(state.s)) {
    if (!rule.momentum) s_ = Zeros(w_);
    Begin(Tensor());
  }

  void Begin(const Tensor& flags) {
    if (flags.defined()) {
      const Tensor mask = flags.Reshape({flags.dim(0), 1, 1, 1});
      const Weights zeros = Zeros(s_);
      const Weights initial = Flat(parameters_.initial);
      w_ = Map(w_, initial, [&](const Var& w, const Var& w0) { return Where(mask, w0, w); });
      s_ = Map(s_, zeros, [&](const Var& s, const Var& zero) { return Where(mask, zero, s); });
    }
    first_w_ = w_;
    first_s_ = s_;
    surprise_ = written_ = Zeros(w_);
  }

  // The read of token `place` (from 0) of the chunk; gates [B, H, 1, 1].
  Var Token(const MemoryTokens& token, int64_t place, bool last) {
    const Weights u = InnerGradient(tape_, rule_, parameters_, first_w_, token.k, token.v);
    const auto decay = [&](const Weights& x, const Var& gate) {
      return Map(x, x, [&](const Var& a, const Var&) { return gate.defined() ? gate * a : a; });
    };
    const auto step = [&](const Weights& s, double sign) {
      const Weights kept = rule_.momentum ? decay(s, token.eta) : Zeros(s);
      return Map(kept, u,
                 [&](const Var& a, const Var& b) { return a + Scale(token.theta * b, sign); });
    };
    const auto plus = [](const Var& a, const Var& b) { return a + b; };
    const Var keep = token.alpha.defined() ? Affine(token.alpha, -1, 1) : Var();
    s_ = step(s_, -1);
    w_ = Map(decay(w_, keep), s_, plus);
    if (rule_.forgetting == Forgetting::kTowardsInitial) {
      w_ = Map(w_, decay(Flat(parameters_.initial), token.alpha), plus);
    }
    Weights read = w_;
    if (rule_.row_scale) {
      // w_ holds minus what was written in this chunk; the read has it times r.
      surprise_ = step(surprise_, 1);
      written_ = Map(decay(written_, keep), surprise_, plus);
      const double base = 1.0 / static_cast<double>(place + 1);
      const Var r = Relu(Affine(Slice(parameters_.row_scale, 0, place, place + 1), 1, base));
      read = Map(w_, decay(written_, Affine(r, -1, 1)), plus);
    }
    const Var y = Network(rule_, parameters_, read, token.q);
    if (last) {
      w_ = read;
      Begin(Tensor());
    }
    return y;
  }

  MemoryState LastBoundary() const {
    MemoryState state{Structured(rule_, first_w_), {}, {}};
    if (rule_.momentum) state.s = Structured(rule_, first_s_);
    return state;
  }

 private:
  Tape& tape_;
  const MemoryRule& rule_;
  const MemoryParameters& parameters_;
  Weights w_, s_, first_w_, first_s_, surprise_, written_;
};

}  // namespace

NaiveMemoryResult NaiveMemory(Tape& tape, const MemoryRule& rule,
                              const MemoryParameters& parameters, const MemoryTokens& tokens,
                              const MemoryState& state, const Tensor& resets) {
  Walk walk(tape, rule, parameters, state);
  std::vector<Var> reads;
  for (int64_t t = 0; t < tokens.q.dim(2); ++t) {
    const int64_t place = t % rule.chunk, chunk = t / rule.chunk;
    if (place == 0 && resets.defined()) walk.Begin(resets.Slice(1, chunk, chunk + 1));
    const auto row = [t](const Var& x) { return x.defined() ? Slice(x, 2, t, t + 1) : x; };
    const MemoryTokens token{row(tokens.q),     row(tokens.k),   row(tokens.v),
                             row(tokens.theta), row(tokens.eta), row(tokens.alpha)};
    reads.push_back(walk.Token(token, place, place + 1 == rule.chunk));
  }
  return {Concat(reads, 2), walk.LastBoundary()};
}

}  // namespace mnemo::testing
