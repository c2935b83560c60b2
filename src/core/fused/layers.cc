#include "src/core/fused/layers.h"

#include <cmath>

#include "src/core/fused/fused_ops.h"
#include "src/core/ops.h"
#include "src/core/thread_pool.h"

namespace mnemo {
namespace {

// The last dim cut into `heads` parts: [..., heads, d / heads].
Shape PerHead(const Var& x, int64_t heads) {
  Require(heads >= 1 && x.dim(-1) % heads == 0, "{} heads do not divide dim {}", heads, x.dim(-1));
  Shape shape = x.shape();
  shape.back() = heads;
  shape.push_back(x.dim(-1) / heads);
  return shape;
}

std::vector<Var> ComposeRmsNorm(std::span<const Var> inputs, const NormAttributes& attributes) {
  const Var &x = inputs[0], &weight = inputs[1];
  const Var rows = Reshape(Widen(x), PerHead(x, attributes.heads));
  const Var scale = Rsqrt(Affine(Mean(Square(rows), -1), 1, attributes.epsilon));
  return {Cast(Mul(Reshape(Mul(rows, scale), x.shape()), weight), x.dtype())};
}

std::vector<Var> ComposeSwiGlu(std::span<const Var> inputs, const NoAttributes&) {
  return {Cast(Mul(Silu(Widen(inputs[0])), Widen(inputs[1])), inputs[0].dtype())};
}

// 1 where a row may see the row `back` before it, [B, T, 1].
Tensor ReachMask(const std::vector<int64_t>& reach, int64_t back, const Var& like) {
  const int64_t rows = static_cast<int64_t>(reach.size());
  std::vector<double> mask(rows);
  for (int64_t i = 0; i < rows; ++i) mask[i] = reach[i] > back ? 1 : 0;
  return Tensor::FromHost(mask, {like.dim(0), rows / like.dim(0), 1}, like.dtype(), like.device());
}

std::vector<Var> ComposeConv(std::span<const Var> inputs, const ConvAttributes& attributes) {
  const Var &before = inputs[0], &x = inputs[1], &weight = inputs[2];
  const int64_t taps = weight.dim(1), rows = x.dim(1);
  const Var parts[] = {before, x};
  const Var extended = Widen(Concat(parts, 1));
  Var y;
  if (attributes.reach.empty()) {
    y = DepthwiseConv(extended, weight);
  } else {
    // Documents meet in this slice: each tap sees only rows of its own.
    for (int64_t j = 0; j < taps; ++j) {
      const Var tap = Reshape(Slice(weight, 1, j, j + 1), {weight.dim(0)});
      const Var seen = Where(ReachMask(attributes.reach, taps - 1 - j, extended),
                             Slice(extended, 1, j, j + rows),
                             Var(Tensor::Zeros({}, extended.dtype(), x.device())));
      const Var term = Mul(seen, tap);
      y = j == 0 ? term : Add(y, term);
    }
  }
  y = Silu(y);
  if (attributes.heads > 0) y = L2Norm(y, attributes.heads, attributes.epsilon);
  return {Cast(y, x.dtype())};
}

// Inputs x, cos, sin.
std::vector<Var> ComposeRotate(std::span<const Var> inputs, const NoAttributes&) {
  const Var &x = inputs[0], &cosine = inputs[1], &sine = inputs[2];
  const int64_t sizes[] = {x.dim(-1) / 2, x.dim(-1) / 2};
  const std::vector<Var> halves = Split(Widen(x), -1, sizes);
  const Var turned[] = {Sub(Mul(halves[0], cosine), Mul(halves[1], sine)),
                        Add(Mul(halves[1], cosine), Mul(halves[0], sine))};
  return {Cast(Concat(turned, -1), x.dtype())};
}

// Listed from the start of the program, not from the first call.
[[maybe_unused]] const FusedOpBase* const layer_ops[] = {&RmsNormOp(), &SwiGluOp(),
                                                         &ConvSiluNormOp(), &RotateOp()};

}  // namespace

FusedOp<NormAttributes>& RmsNormOp() {
  static FusedOp<NormAttributes> op("rms_norm", &ComposeRmsNorm);
  return op;
}

FusedOp<NoAttributes>& SwiGluOp() {
  static FusedOp<NoAttributes> op("swiglu", &ComposeSwiGlu);
  return op;
}

FusedOp<ConvAttributes>& ConvSiluNormOp() {
  static FusedOp<ConvAttributes> op("conv_silu_norm", &ComposeConv);
  return op;
}

FusedOp<NoAttributes>& RotateOp() {
  static FusedOp<NoAttributes> op("rotate", &ComposeRotate);
  return op;
}

Var RmsNorm(const Var& x, const Var& weight, int64_t heads, double epsilon) {
  const Var inputs[] = {x, weight};
  return RmsNormOp()(inputs, {heads, epsilon})[0];
}

Var L2Norm(const Var& x, int64_t heads, double epsilon) {
  const Var rows = Reshape(Widen(x), PerHead(x, heads));
  const Var scale = Rsqrt(Affine(Sum(Square(rows), -1), 1, epsilon));
  return Cast(Reshape(Mul(rows, scale), x.shape()), x.dtype());
}

Var SwiGlu(const Var& a, const Var& b) {
  const Var inputs[] = {a, b};
  return SwiGluOp()(inputs, {})[0];
}

Var ConvSiluNorm(const Var& before, const Var& x, const Var& weight, int64_t heads, double epsilon,
                 const std::vector<int64_t>& reach) {
  Require(reach.empty() || static_cast<int64_t>(reach.size()) == x.dim(0) * x.dim(1),
          "conv_silu_norm: {} reaches for rows {}", reach.size(), x.shape());
  const Var inputs[] = {before, x, weight};
  return ConvSiluNormOp()(inputs, {heads, epsilon, reach})[0];
}

RotaryTables MakeRotaryTables(const std::vector<int64_t>& positions, int64_t batch,
                              int64_t head_dim, double base, DType dtype, Device device) {
  const int64_t half = head_dim / 2, rows = static_cast<int64_t>(positions.size());
  Require(head_dim % 2 == 0 && rows % batch == 0, "rotary positions: head dim {}, {} rows of {}",
          head_dim, rows, batch);
  std::vector<double> frequency(half), cosines(rows * half), sines(rows * half);
  for (int64_t i = 0; i < half; ++i) {
    frequency[i] = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  }
  ParallelFor(rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * half; at < end * half; ++at) {
      const double angle = static_cast<double>(positions[at / half]) * frequency[at % half];
      cosines[at] = std::cos(angle);
      sines[at] = std::sin(angle);
    }
  });
  const Shape shape{batch, 1, rows / batch, half};
  const DType wide = WideType(dtype);
  return {Tensor::FromHost(cosines, shape, wide, device),
          Tensor::FromHost(sines, shape, wide, device)};
}

Var Rotate(const Var& x, const RotaryTables& tables) {
  const Var inputs[] = {x, Var(tables.cos), Var(tables.sin)};
  return RotateOp()(inputs, {})[0];
}

Var SplitHeads(const Var& x, int64_t heads) {
  Require(x.rank() == 3 && x.dim(2) % heads == 0, "split_heads: {} into {}", x.shape(), heads);
  return Permute(Reshape(x, {x.dim(0), x.dim(1), heads, x.dim(2) / heads}), {0, 2, 1, 3});
}

Var MergeHeads(const Var& x) {
  return Reshape(Permute(x, {0, 2, 1, 3}), {x.dim(0), x.dim(2), x.dim(1) * x.dim(3)});
}

}  // namespace mnemo
