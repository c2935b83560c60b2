// Every fused op against its plain definition and against differences. Attention has a file of its
// own, and so has the memory scan.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "src/core/fused/cross_entropy.h"
#include "src/core/fused/gates.h"
#include "src/core/fused/layers.h"
#include "src/core/fused/memory_scan.h"
#include "src/core/fused_op.h"
#include "src/core/ops.h"
#include "tests/core/gradient_check.h"
#include "tests/reference/reference_layers.h"

namespace mnemo::testing {
namespace {

namespace ref = mnemo::reference;

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

// Nothing else here refers to the memory scan, and a static library links only what is used.
auto* volatile const linked_scan = &MemoryScan;

// A new fused op needs a test against its plain definition: then its name goes here.
TEST(FusedOps, AllHaveTests) {
  const std::set<std::string> tested = {"rms_norm",  "swiglu",        "conv_silu_norm",
                                        "rotate",    "cross_entropy", "cross_entropy_gradient",
                                        "attention", "gates",         "memory_scan"};
  std::set<std::string> linked;
  for (const FusedOpBase* op : FusedOpBase::All()) {
    if (!op->name().starts_with("test_")) linked.insert(op->name());
  }
  EXPECT_EQ(linked, tested);
}

// Sequence b of x [B, T, d].
ref::Matrix Sequence(const Tensor& x, int64_t b) {
  ref::Matrix matrix(static_cast<int>(x.dim(1)), static_cast<int>(x.dim(2)));
  matrix.data = x.Slice(0, b, b + 1).ToDoubles();
  return matrix;
}

ref::Matrix Plain(const Tensor& x) {  // [rows, columns]
  ref::Matrix matrix(static_cast<int>(x.dim(0)), static_cast<int>(x.dim(1)));
  matrix.data = x.ToDoubles();
  return matrix;
}

void ExpectNear(const Tensor& x, const ref::Vector& expected, double tolerance) {
  ASSERT_EQ(x.elements(), static_cast<int64_t>(expected.size()));
  EXPECT_LE(RelativeError(x, Tensor::FromHost(expected, x.shape(), DType::kF64)), tolerance);
}

// First derivatives, those of the derivative, and f32; `length`: terms of the longest sum.
void CheckDerivatives(const Function& f, std::span<const Tensor> inputs, double length) {
  // Norms of short rows bend sharply: a small step.
  EXPECT_LT(FirstDerivativeError(f, inputs, {.step = 3e-4}), 1e-8);
  EXPECT_LT(SecondDerivativeError(f, inputs, {.step = 3e-4}), 1e-8);
  EXPECT_LT(SingleError(f, inputs), std::numeric_limits<float>::epsilon() * (32 + 4 * length));
}

TEST(FusedOps, RmsNormAndL2Norm) {
  for (const int64_t heads : {1, 3}) {
    const Tensor inputs[] = {Uniform({2, 5, 6}, 1), Uniform({6}, 2)};
    const Function rms = [heads](std::span<const Var> x) -> std::vector<Var> {
      return {RmsNorm(x[0], x[1], heads, 1e-6)};
    };
    const Function l2 = [heads](std::span<const Var> x) -> std::vector<Var> {
      return {L2Norm(x[0], heads, 1e-6)};
    };
    const Var vars[] = {inputs[0], inputs[1]};
    for (int b = 0; b < 2; ++b) {
      const int h = static_cast<int>(heads);
      ExpectNear(rms(vars)[0].value().Slice(0, b, b + 1),
                 ref::RmsNorm(Sequence(inputs[0], b), inputs[1].ToDoubles(), h, 1e-6).data,
                 32 * kEpsilon);
      ExpectNear(l2(vars)[0].value().Slice(0, b, b + 1),
                 ref::L2Norm(Sequence(inputs[0], b), h, 1e-6).data, 32 * kEpsilon);
    }
    CheckDerivatives(rms, inputs, 10);
    CheckDerivatives(l2, {inputs, 1}, 6);
  }
  EXPECT_THROW(L2Norm(Uniform({2, 6}, 1), 4, 1e-6), TensorError);
}

TEST(FusedOps, SwiGlu) {
  const Tensor inputs[] = {Uniform({3, 5}, 1, -3, 3), Uniform({3, 5}, 2)};
  const Function f = [](std::span<const Var> x) -> std::vector<Var> {
    return {SwiGlu(x[0], x[1])};
  };
  const Var vars[] = {inputs[0], inputs[1]};
  ExpectNear(f(vars)[0].value(),
             ref::Multiply(ref::Map(&ref::Silu, Plain(inputs[0])), Plain(inputs[1])).data,
             8 * kEpsilon);
  CheckDerivatives(f, inputs, 1);
}

TEST(FusedOps, Gates) {
  const Tensor x = Uniform({2, 5, 6}, 1);
  const Tensor inputs[] = {x, Uniform({3, 6}, 2, -2, 2), Uniform({3}, 3), Uniform({3, 6}, 4),
                           Uniform({3}, 5)};
  const double maxima[] = {0.25, 1};
  const Function f = [&](std::span<const Var> v) {
    const GateWeights gates[] = {{v[1], v[2], maxima[0]}, {v[3], v[4], maxima[1]}};
    return HeadGates(v[0], gates);
  };
  const Var vars[] = {inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]};
  const std::vector<Var> gates = f(vars);
  for (int g = 0; g < 2; ++g) {
    ASSERT_EQ(gates[g].shape(), (Shape{2, 3, 5, 1}));
    const std::vector<double> w = inputs[1 + 2 * g].ToDoubles(), c = inputs[2 + 2 * g].ToDoubles();
    ref::Vector expected;
    for (int b = 0; b < 2; ++b) {
      const ref::Matrix rows = Sequence(x, b);
      for (int h = 0; h < 3; ++h) {
        for (int t = 0; t < 5; ++t) {
          double z = c[h];
          for (int i = 0; i < 6; ++i) z += rows.data[t * 6 + i] * w[h * 6 + i];
          expected.push_back(maxima[g] / (1 + std::exp(-z)));
        }
      }
    }
    ExpectNear(gates[g].value(), expected, 16 * kEpsilon);
  }
  CheckDerivatives(f, inputs, 6);
}

TEST(FusedOps, ConvolutionWithHistory) {
  const Tensor all = Uniform({2, 9, 6}, 1), weight = Uniform({6, 4}, 2);
  // Rows 5.. with the three before them against a convolution over everything.
  const Tensor inputs[] = {all.Slice(1, 2, 5), all.Slice(1, 5, 9), weight};
  for (const int64_t heads : {0, 1, 3}) {
    const Function f = [heads](std::span<const Var> x) -> std::vector<Var> {
      return {ConvSiluNorm(x[0], x[1], x[2], heads, 1e-6)};
    };
    const Var vars[] = {inputs[0], inputs[1], inputs[2]};
    for (int b = 0; b < 2; ++b) {
      ref::Matrix y = ref::Map(&ref::Silu, ref::CausalConv(Sequence(all, b), Plain(weight)));
      if (heads > 0) y = ref::L2Norm(y, static_cast<int>(heads), 1e-6);
      ExpectNear(f(vars)[0].value().Slice(0, b, b + 1), ref::Rows(y, 5, 9).data, 64 * kEpsilon);
    }
    CheckDerivatives(f, inputs, 32);
  }
}

// Documents that begin inside the slice see zeros before their first row.
TEST(FusedOps, ConvolutionWithReach) {
  const Tensor x = Uniform({2, 5, 4}, 1), weight = Uniform({4, 4}, 2);
  const Tensor inputs[] = {Uniform({2, 3, 4}, 3), x, weight};
  const std::vector<int64_t> reach = {9, 10, 1, 2, 3, 1, 2, 3, 4, 5};
  const std::vector<std::pair<int, int>> documents[] = {{{2, 5}}, {{0, 5}}};
  for (const int64_t heads : {0, 2}) {
    const auto run = [heads](std::span<const Var> v, const std::vector<int64_t>& r) {
      return std::vector<Var>{ConvSiluNorm(v[0], v[1], v[2], heads, 1e-6, r)};
    };
    const Var vars[] = {inputs[0], inputs[1], inputs[2]};
    const Tensor y = run(vars, reach)[0].value();
    for (int b = 0; b < 2; ++b) {
      for (const auto& [begin, end] : documents[b]) {
        ref::Matrix expected = ref::Map(
            &ref::Silu, ref::CausalConv(ref::Rows(Sequence(x, b), begin, end), Plain(weight)));
        if (heads > 0) expected = ref::L2Norm(expected, static_cast<int>(heads), 1e-6);
        ExpectNear(y.Slice(0, b, b + 1).Slice(1, begin, end), expected.data, 64 * kEpsilon);
      }
    }
    // Where everything is in reach, the mask changes nothing.
    const Tensor free = run(vars, {})[0].value();
    EXPECT_LE(RelativeError(run(vars, std::vector<int64_t>(10, 4))[0].value(), free),
              16 * kEpsilon);
    EXPECT_LE(RelativeError(y.Slice(0, 0, 1).Slice(1, 0, 2), free.Slice(0, 0, 1).Slice(1, 0, 2)),
              16 * kEpsilon);
    CheckDerivatives([&](std::span<const Var> v) { return run(v, reach); }, inputs, 32);
  }
  EXPECT_THROW(ConvSiluNorm(inputs[0], x, weight, 0, 1e-6, {1, 2}), TensorError);
}

TEST(FusedOps, CrossEntropy) {
  const Tensor inputs[] = {Uniform({6, 5}, 1, -2, 2), Uniform({11, 5}, 2, -2, 2)};
  const std::vector<int32_t> targets = {0, 10, -1, 4, 3, 7};
  const ref::Vector expected = ref::CrossEntropy(ref::Linear(Plain(inputs[0]), Plain(inputs[1])),
                                                 {targets.begin(), targets.end()});
  for (const int64_t tile : {1, 4, 11, 100}) {
    const Function f = [&](std::span<const Var> x) -> std::vector<Var> {
      return {CrossEntropy(x[0], x[1], Tensor::FromHost(targets, {6}), tile)};
    };
    const Var vars[] = {inputs[0], inputs[1]};
    ExpectNear(f(vars)[0].value(), expected, 64 * kEpsilon);
    EXPECT_EQ(f(vars)[0].value().ToDoubles()[2], 0);
    EXPECT_LT(FirstDerivativeError(f, inputs), 1e-8);
    EXPECT_LT(SingleError(f, inputs), 128 * std::numeric_limits<float>::epsilon());
  }
  const Var x(inputs[0]), head(inputs[1]);
  EXPECT_THROW(CrossEntropy(x, head, Tensor::FromHost(std::vector<int32_t>(6, 11), {6}), 4),
               TensorError);
}

TEST(FusedOps, CrossEntropyWithGradientsIsTheSameAtOnce) {
  const Tensor x = Uniform({6, 5}, 1, -2, 2), head = Uniform({11, 5}, 2, -2, 2);
  const Tensor targets = Tensor::FromHost(std::vector<int32_t>{0, 10, -1, 4, 3, 7}, {6});
  for (const int64_t tile : {4, 100}) {
    Tape tape;
    const Var wrt[] = {tape.Leaf(x), tape.Leaf(head)};
    const Var losses = CrossEntropy(wrt[0], wrt[1], targets, tile);
    const Tensor seed = Tensor::Full(losses.shape(), 0.25, DType::kF64);
    const std::vector<Tensor> gradients = tape.Gradient({&losses, 1}, {&seed, 1}, wrt);
    const CrossEntropyGradients all = CrossEntropyWithGradients(x, head, targets, tile, 0.25);
    EXPECT_EQ(all.losses.ToDoubles(), losses.value().ToDoubles());
    ExpectNear(all.x, gradients[0].ToDoubles(), 64 * kEpsilon);
    ExpectNear(all.head, gradients[1].ToDoubles(), 64 * kEpsilon);
  }
  const CrossEntropyGradients narrow =
      CrossEntropyWithGradients(x.To(DType::kBF16), head.To(DType::kBF16), targets, 4, 1);
  EXPECT_EQ(narrow.losses.dtype(), DType::kF32);
  EXPECT_EQ(narrow.x.dtype(), DType::kBF16);
  EXPECT_EQ(narrow.head.dtype(), DType::kF32);
  const Tensor outside = Tensor::FromHost(std::vector<int32_t>(6, 11), {6});
  EXPECT_THROW(CrossEntropyWithGradients(x, head, outside, 4, 1), TensorError);
}

// Logits far outside the range of exp.
TEST(FusedOps, CrossEntropyOfLargeLogits) {
  const Var x(Tensor::Full({1, 1}, 1, DType::kF32));
  const Var head(Tensor::FromHost(std::vector<double>{1000, -1000, 999}, {3, 1}, DType::kF32));
  const Tensor target = Tensor::FromHost(std::vector<int32_t>{2}, {1});
  for (const int64_t tile : {1, 3}) {
    EXPECT_NEAR(CrossEntropy(x, head, target, tile).value().Item(), std::log1p(std::exp(1.0)),
                1000 * std::numeric_limits<float>::epsilon());
  }
}

TEST(FusedOps, RotationTurnsPairs) {
  const std::vector<int64_t> positions = {0, 3, 2000000, 7, 8, 9};
  const Tensor x = Uniform({2, 2, 3, 4}, 1);
  const RotaryTables tables = MakeRotaryTables(positions, 2, 4, 10000, DType::kF64, {});
  const std::vector<double> y = Rotate(x, tables).value().ToDoubles(), v = x.ToDoubles();
  for (int row = 0; row < 12; ++row) {
    const int64_t position = positions[row / 6 * 3 + row % 3];
    for (int i = 0; i < 2; ++i) {
      const double angle = static_cast<double>(position) * std::pow(10000.0, -i / 2.0);
      const double a = v[row * 4 + i], b = v[row * 4 + i + 2];
      EXPECT_NEAR(y[row * 4 + i], a * std::cos(angle) - b * std::sin(angle), 8 * kEpsilon);
      EXPECT_NEAR(y[row * 4 + i + 2], b * std::cos(angle) + a * std::sin(angle), 8 * kEpsilon);
    }
  }
  const Function f = [&](std::span<const Var> in) -> std::vector<Var> {
    return {Rotate(in[0], {tables.cos.To(in[0].dtype()), tables.sin.To(in[0].dtype())})};
  };
  CheckDerivatives(f, {&x, 1}, 2);
}

TEST(FusedOps, HeadsAreSplitAndMerged) {
  const Tensor x = Uniform({2, 3, 6}, 1);
  const Var heads = SplitHeads(x, 2);
  EXPECT_EQ(heads.shape(), (Shape{2, 2, 3, 3}));
  EXPECT_EQ(heads.value().Slice(1, 1, 2).ToDoubles(), x.Slice(2, 3, 6).ToDoubles());
  EXPECT_EQ(MergeHeads(heads).value().ToDoubles(), x.ToDoubles());
}

}  // namespace
}  // namespace mnemo::testing
