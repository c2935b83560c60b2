#include "src/core/fused/memory_chunk.h"

#include <utility>

#include "src/core/ops.h"

namespace mnemo {
namespace {

Var Rows(const Var& x, int64_t begin, int64_t end) {
  return x.defined() ? Slice(x, 2, begin, end) : x;
}

Var Append(const Var& before, const Var& after) {
  if (!before.defined() || !after.defined()) return after;
  const Var parts[] = {before, after};
  return Concat(parts, 2);
}

// diag(scale) x w^T, scaling whichever side is narrower.
Var ScaledLinear(const Var& scale, const Var& x, const Var& w) {
  if (!scale.defined()) return MatMul(x, Transpose(w));
  if (x.dim(-1) <= w.dim(-2)) return MatMul(Mul(scale, x), Transpose(w));
  return Mul(scale, MatMul(x, Transpose(w)));
}

// sum + diag(scale) x w^T.
Var AddScaledLinear(Var sum, const Var& scale, const Var& x, const Var& w) {
  if (x.dim(-1) > w.dim(-2)) return Add(sum, ScaledLinear(scale, x, w));
  return AddMatMul(std::move(sum), Mul(scale, x), Transpose(w));
}

// sum - deltas^T diag(scale) inputs, scaling whichever side is narrower.
Var SubtractOuter(Var sum, const Var& deltas, const Var& scale, const Var& inputs) {
  if (deltas.dim(-1) <= inputs.dim(-1)) {
    return AddMatMul(std::move(sum), Transpose(Mul(deltas, scale)), inputs, -1);
  }
  return AddMatMul(std::move(sum), Transpose(deltas), Mul(inputs, scale), -1);
}

// One chunk, or the part of one that these tokens hold.
class ChunkScan {
 public:
  ChunkScan(const MemoryRule& rule, const MemoryParameters& parameters, MemoryState& state)
      : rule_(rule), parameters_(parameters), state_(state) {}

  // Adds `tokens` to the open chunk and returns their reads; closes the chunk if it is full.
  Var Run(const MemoryTokens& tokens, Tensor& clamp_hits) {
    const int64_t before = state_.open.count, count = before + tokens.q.dim(2);
    Extend(tokens, clamp_hits);
    coefficients_ =
        ComputeCoefficients(rule_, state_.open.theta, state_.open.eta, state_.open.alpha);
    if (rule_.row_scale) ScaleRows(count);
    const Var y = Read(tokens.q, before, count);
    if (count == rule_.chunk) Close();
    return y;
  }

 private:
  void Extend(const MemoryTokens& tokens, Tensor& clamp_hits) {
    OpenChunk& open = state_.open;
    InnerGradient gradient = MemoryGradient(rule_, parameters_, state_.w, tokens.k, tokens.v);
    if (rule_.clamp > 0) {
      const double limit = rule_.clamp * rule_.clamp;
      const Tensor hits = SumAll(Step(Affine(Var(gradient.squared_norm), 1, -limit))).value();
      clamp_hits = clamp_hits.defined() ? Add(Var(clamp_hits), Var(hits)).value() : hits;
    }
    open.inputs.resize(rule_.depth);
    open.deltas.resize(rule_.depth);
    for (int i = 0; i < rule_.depth; ++i) {
      open.inputs[i] = Append(open.inputs[i], gradient.inputs[i]);
      open.deltas[i] = Append(open.deltas[i], gradient.deltas[i]);
    }
    open.theta = Append(open.theta, tokens.theta);
    open.eta = Append(open.eta, tokens.eta);
    open.alpha = Append(open.alpha, tokens.alpha);
    open.count += tokens.q.dim(2);
  }

  // G's row t times r_t = max(0, 1 / t + learned_t), t from 1.
  void ScaleRows(int64_t count) {
    std::vector<double> base(count);
    for (int64_t t = 0; t < count; ++t) base[t] = 1.0 / static_cast<double>(t + 1);
    const Var& learned = parameters_.row_scale;
    const Var inverse(Tensor::FromHost(base, {count, 1}, learned.dtype(), learned.device()));
    coefficients_.g = Mul(coefficients_.g, Relu(Add(Slice(learned, 0, 0, count), inverse)));
  }

  // A W + B S [+ (1 - A) W_0]: what is left of the state at the chunk's beginning.
  Var Carried(const Var& a, const Var& b, const Var& w, const Var& s, const Var& initial) const {
    Var sum = a.defined() ? Mul(a, w) : w;
    if (rule_.momentum) sum = Add(sum, Mul(b, s));
    if (rule_.forgetting == Forgetting::kTowardsInitial) {
      sum = Add(sum, Mul(Affine(a, -1, 1), initial));
    }
    return sum;
  }

  // Reads rows [begin, end) of the chunk with queries x [B, H, end - begin, f]:
  //   Z = diag(A) X W^T + diag(B) X S^T [+ diag(1 - A) X W_0^T] - (G o (X H^T)) D
  // layer by layer, where a bias is a weight whose input is 1.
  Var Read(const Var& queries, int64_t begin, int64_t end) {
    const Var a = Rows(coefficients_.a, begin, end), b = Rows(coefficients_.b, begin, end);
    const Var g = Rows(coefficients_.g, begin, end);
    const bool towards_initial = rule_.forgetting == Forgetting::kTowardsInitial;
    Var x = queries;
    for (int i = 0; i < rule_.depth; ++i) {
      Var z = ScaledLinear(a, x, state_.w.w[i]);
      if (rule_.momentum) z = AddScaledLinear(std::move(z), b, x, state_.s.w[i]);
      if (towards_initial) {
        z = AddScaledLinear(std::move(z), Affine(a, -1, 1), x, Initial(i, x.dim(0)));
      }
      Var attention = MatMul(x, Transpose(state_.open.inputs[i]));
      if (rule_.biases) attention = Affine(attention, 1, 1);
      z = AddMatMul(std::move(z), Mul(g, attention), state_.open.deltas[i], -1);
      if (rule_.biases) {
        z = Add(z, Carried(a, b, state_.w.c[i], MomentumBias(i), parameters_.initial.c[i]));
      }
      if (i + 1 == rule_.depth) {
        x = z;
      } else {
        x = rule_.activation == MemoryActivation::kSilu ? Silu(z) : Gelu(z);
      }
    }
    if (rule_.layer_norm) {
      x = LayerNorm(x, parameters_.norm_weight, parameters_.norm_bias, rule_.epsilon).y;
    }
    return rule_.residual ? Add(x, queries) : x;
  }

  // The state after the chunk's last token becomes the next chunk's first:
  //   W' = A_b W + B_b S [+ (1 - A_b) W_0] - D^T diag(G_{b,:}) H,  S' = E_b S - D^T diag(P_{b,:})
  //   H.
  void Close() {
    const auto last = [this](const Var& x) { return Rows(x, rule_.chunk - 1, rule_.chunk); };
    const Var a = last(coefficients_.a), b = last(coefficients_.b), e = last(coefficients_.e);
    const Var g = Transpose(last(coefficients_.g)), p = Transpose(last(coefficients_.p));
    for (int i = 0; i < rule_.depth; ++i) {
      const Var &inputs = state_.open.inputs[i], &deltas = state_.open.deltas[i];
      Var& w = state_.w.w[i];
      Var carried =
          Carried(a, b, w, rule_.momentum ? state_.s.w[i] : Var(), parameters_.initial.w[i]);
      w = SubtractOuter(std::move(carried), deltas, g, inputs);
      if (rule_.momentum) {
        state_.s.w[i] = SubtractOuter(Mul(e, state_.s.w[i]), deltas, p, inputs);
      }
      if (!rule_.biases) continue;
      Var& c = state_.w.c[i];
      c = Sub(Carried(a, b, c, MomentumBias(i), parameters_.initial.c[i]), Sum(Mul(deltas, g), 2));
      if (rule_.momentum) {
        state_.s.c[i] = Sub(Mul(e, state_.s.c[i]), Sum(Mul(deltas, p), 2));
      }
    }
    state_.open = OpenChunk();
  }

  Var MomentumBias(int layer) const { return rule_.momentum ? state_.s.c[layer] : Var(); }

  Var Initial(int layer, int64_t batch) const {
    Shape shape = parameters_.initial.w[layer].shape();
    shape.insert(shape.begin(), batch);
    return BroadcastTo(parameters_.initial.w[layer], shape);
  }

  const MemoryRule& rule_;
  const MemoryParameters& parameters_;
  MemoryState& state_;
  MemoryCoefficients coefficients_;
};

}  // namespace

Var ScanChunk(const MemoryRule& rule, const MemoryParameters& parameters,
              const MemoryTokens& tokens, MemoryState& state, Tensor& clamp_hits) {
  return ChunkScan(rule, parameters, state).Run(tokens, clamp_hits);
}

}  // namespace mnemo
