// bf16: every primitive and fused op against f64 at the same, rounded inputs. A kernel computes in
// f32 and rounds once, so that each element is within half a unit in the last place of bf16; what
// is to stay f32 stays f32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "src/core/backend.h"
#include "src/core/fused/attention.h"
#include "src/core/fused/cross_entropy.h"
#include "src/core/fused/gates.h"
#include "src/core/fused/layers.h"
#include "src/core/ops.h"
#include "tests/core/memory_problem.h"
#include "tests/core/op_cases.h"

namespace mnemo::testing {
namespace {

// Rounding to nearest, of a significand of 8 bits.
constexpr double kUnit = 0x1p-8;
constexpr double kSingle = std::numeric_limits<float>::epsilon();

// Outputs and gradients of <r, f> with inputs of these dtypes, r and inputs as bf16 can hold them.
Evaluation RunOn(const Function& f, std::span<const Tensor> inputs, std::span<const DType> types) {
  Tape tape;
  std::vector<Var> leaves;
  for (size_t i = 0; i < inputs.size(); ++i) {
    leaves.push_back(tape.Leaf(inputs[i].To(DType::kBF16).To(types[i])));
  }
  Evaluation result;
  std::vector<Tensor> seeds;
  const std::vector<Var> outputs = f(leaves);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Tensor r = Uniform(outputs[i].shape(), 100 + i).To(DType::kBF16);
    seeds.push_back(r.To(outputs[i].dtype()));
    result.outputs.push_back(outputs[i].value());
  }
  result.gradients = tape.Gradient(outputs, seeds, leaves);
  return result;
}

double Largest(const std::vector<double>& values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

// |a - b| <= relative |b| + absolute max |b|, element by element.
void ExpectClose(const Tensor& a, const Tensor& b, double relative, double absolute,
                 const std::string& what) {
  ASSERT_EQ(a.defined(), b.defined()) << what;
  if (!a.defined()) return;
  ASSERT_EQ(a.shape(), b.shape()) << what;
  const std::vector<double> x = a.ToDoubles(), y = b.ToDoubles();
  const double floor = absolute * Largest(y);
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_LE(std::abs(x[i] - y[i]), relative * std::abs(y[i]) + floor)
        << what << " element " << i << ": " << x[i] << " for " << y[i];
  }
}

struct Bound {
  double outputs = 1;    // roundings that an element has seen
  double gradients = 1;  // the same of gradients, relative to the largest of the tensor
  double single = 64;    // f32 roundings, relative to the largest
};

// Inputs named in `wide` are f32, the rest bf16.
void Compare(const Function& f, std::span<const Tensor> inputs, std::vector<size_t> wide,
             const Bound& bound) {
  std::vector<DType> narrow(inputs.size(), DType::kBF16);
  for (const size_t i : wide) narrow[i] = DType::kF32;
  const std::vector<DType> exact(inputs.size(), DType::kF64);
  const Evaluation a = RunOn(f, inputs, narrow), b = RunOn(f, inputs, exact);
  for (size_t i = 0; i < a.outputs.size(); ++i) {
    const bool rounded = a.outputs[i].dtype() == DType::kBF16;
    ExpectClose(a.outputs[i], b.outputs[i], rounded ? bound.outputs * kUnit : 0,
                bound.single * kSingle, fmt::format("output {}", i));
  }
  for (size_t i = 0; i < a.gradients.size(); ++i) {
    if (!a.gradients[i].defined()) continue;
    EXPECT_EQ(a.gradients[i].dtype(), narrow[i]);
    ExpectClose(a.gradients[i], b.gradients[i], 0, bound.gradients * kUnit + bound.single * kSingle,
                fmt::format("gradient {}", i));
  }
}

// One kernel, one rounding; derivatives are a handful of primitives, each of which rounds.
TEST(Bf16, PrimitivesRoundOnce) {
  std::vector<OpCase> cases = ElementwiseCases();
  for (const auto& more : {ShapeCases(), StructuredCases()}) {
    cases.insert(cases.end(), more.begin(), more.end());
  }
  for (const OpCase& op : cases) {
    if (op.primitive == Primitive::kCast) continue;  // of fixed types
    SCOPED_TRACE(fmt::format("{}: {}", Name(op.primitive), op.name));
    Bound bound{.gradients = 8};
    // Their cases are several operations.
    const std::set<Primitive> composed = {Primitive::kBroadcastTo, Primitive::kSpreadToPeers,
                                          Primitive::kSumOverPeers};
    if (composed.contains(op.primitive)) bound.outputs = 3;
    // Their derivatives are long formulas in basic operations, for third derivatives only.
    const std::set<Primitive> curved = {Primitive::kSiluGrad2, Primitive::kGeluGrad2};
    if (curved.contains(op.primitive)) bound.gradients = 64;
    Compare(op.run, op.inputs, {}, bound);
  }
}

TEST(Bf16, WideProductsAreNotRounded) {
  const Tensor inputs[] = {Uniform({3, 5, 40}, 1), Uniform({3, 40, 7}, 2)};
  const Function f = [](std::span<const Var> x) -> std::vector<Var> {
    return {WideMatMul(x[0], x[1], 0.7)};
  };
  const DType narrow[] = {DType::kBF16, DType::kBF16};
  EXPECT_EQ(RunOn(f, inputs, narrow).outputs[0].dtype(), DType::kF32);
  Compare(f, inputs, {}, {.gradients = 2, .single = 40});
}

// A product that is added to f32, as gradients are, in any layout of the sum.
TEST(Bf16, ProductsAreAddedToSumsInSinglePrecision) {
  const Tensor a = Uniform({6, 50}, 1).To(DType::kBF16), b = Uniform({50, 4}, 2).To(DType::kBF16);
  const Tensor start = Uniform({6, 4}, 3).To(DType::kF32);
  for (const bool transposed : {false, true}) {
    const Tensor sum = transposed ? start.Transpose().Contiguous().Transpose() : start.Clone();
    CpuBackend().Gemm(a, b, 0.5, 1, sum);
    const Tensor exact = start.To(DType::kF64);
    CpuBackend().Gemm(a.To(DType::kF64), b.To(DType::kF64), 0.5, 1, exact);
    ExpectClose(sum, exact, 0, 50 * kSingle, "sum");
  }
}

TEST(Bf16, AddsNarrowToWide) {
  const Tensor sum = Tensor::Full({3, 2}, 1, DType::kF32);
  const Tensor one = Tensor::Full({1, 2}, 0x1p-12, DType::kBF16).BroadcastTo({3, 2});
  for (int i = 0; i < 1000; ++i) CpuBackend().Binary(BinaryOp::kAdd, sum, one, sum);
  EXPECT_EQ(sum.ToDoubles(), std::vector<double>(6, 1 + 1000 * 0x1p-12));
}

// Gradients of a leaf with a sum go there, through views, without rounding and without a copy.
TEST(Bf16, LeavesAddTheirGradientsToSums) {
  const Tensor x = Uniform({30, 4}, 1).To(DType::kBF16), w = Uniform({6, 4}, 2).To(DType::kBF16);
  const Tensor r = Uniform({30, 6}, 3).To(DType::kBF16), bias = Uniform({6}, 4).To(DType::kF32);
  const auto run = [&](DType narrow, DType wide, Tensor* sums) {
    Tape tape;
    sums[0] = Tensor::Full({6, 4}, 1, wide);
    sums[1] = Tensor::Full({6}, 2, wide);
    const Var weight = tape.Leaf(w.To(narrow), sums[0]), added = tape.Leaf(bias.To(wide), sums[1]);
    const Var rows = tape.Leaf(x.To(narrow));
    Var y;
    for (int i = 0; i < 3; ++i) {  // read several times, whole and in parts
      const int64_t sizes[] = {2, 4};
      const std::vector<Var> parts = Split(weight, 0, sizes);
      const Var both[] = {MatMul(rows, Transpose(parts[0])), MatMul(rows, Transpose(parts[1]))};
      const Var z = i == 0 ? Concat(both, 1) : MatMul(rows, Transpose(weight));
      y = i == 0 ? z : Add(y, z);
    }
    const Var outputs[] = {Add(Widen(y), added)};
    const Tensor seeds[] = {r.To(outputs[0].dtype())};
    const Var wrt[] = {weight, added, rows};
    return tape.Gradient(outputs, seeds, wrt);
  };
  Tensor narrow[2], exact[2];
  const std::vector<Tensor> gradients = run(DType::kBF16, DType::kF32, narrow);
  run(DType::kF64, DType::kF64, exact);
  EXPECT_FALSE(gradients[0].defined() || gradients[1].defined());
  EXPECT_EQ(gradients[2].dtype(), DType::kBF16);
  // 3 x 30 products of bf16 are exact in f32, so only their sum is rounded.
  for (int i = 0; i < 2; ++i) ExpectClose(narrow[i], exact[i], 0, 90 * kSingle, "sum");
}

TEST(Bf16, FusedRowsRoundOnce) {
  const Tensor x = Uniform({2, 5, 6}, 1, -3, 3), z = Uniform({2, 5, 6}, 2, -3, 3);
  const Tensor weight = Uniform({6}, 3), before = Uniform({2, 3, 6}, 4), taps = Uniform({6, 4}, 5);
  const auto one = [](Var y) { return std::vector<Var>{std::move(y)}; };
  const Bound bound{.outputs = 1.001, .gradients = 1.001};
  for (const int64_t heads : {1, 3}) {
    const Tensor norm[] = {x, weight};
    Compare([&](std::span<const Var> v) { return one(RmsNorm(v[0], v[1], heads, 1e-6)); }, norm,
            {1}, bound);
    Compare([&](std::span<const Var> v) { return one(L2Norm(v[0], heads, 1e-6)); }, {&x, 1}, {},
            bound);
  }
  const Tensor pair[] = {x, z};
  Compare([&](std::span<const Var> v) { return one(SwiGlu(v[0], v[1])); }, pair, {}, bound);
  const Tensor conv[] = {before, x, taps};
  for (const std::vector<int64_t>& reach :
       {std::vector<int64_t>{}, std::vector<int64_t>{1, 2, 3, 1, 2, 9, 9, 9, 1, 2}}) {
    for (const int64_t heads : {0, 2}) {
      Compare(
          [&](std::span<const Var> v) {
            return one(ConvSiluNorm(v[0], v[1], v[2], heads, 1e-6, reach));
          },
          conv, {2}, bound);
    }
  }
  const Tensor gates[] = {x, Uniform({3, 6}, 7), Uniform({3}, 8)};
  Compare(
      [](std::span<const Var> v) {
        const GateWeights weights[] = {{v[1], v[2], 0.5}};
        return HeadGates(v[0], weights);
      },
      gates, {1, 2}, bound);
  const Tensor rows = Uniform({2, 3, 5, 6}, 6, -3, 3);
  const std::vector<int64_t> positions = {0, 1, 2, 3, 4, 90, 91, 92, 93, 94};
  Compare(
      [&](std::span<const Var> v) {
        return one(Rotate(v[0], MakeRotaryTables(positions, 2, 6, 100, v[0].dtype(), {})));
      },
      {&rows, 1}, {}, bound);
}

// Scores are f32; the probabilities are rounded once before they multiply the values, and so is
// the result. Backwards dS and P are rounded too.
TEST(Bf16, AttentionKeepsItsScoresWide) {
  const std::vector<Tensor> inputs = {Uniform({2, 2, 9, 4}, 1, -2, 2), Uniform({1, 2, 3, 4}, 2),
                                      Uniform({1, 2, 3, 4}, 3), Uniform({2, 2, 9, 4}, 4, -2, 2),
                                      Uniform({2, 2, 9, 4}, 5)};
  const auto f = [](std::span<const Var> v) -> std::vector<Var> {
    return {Attention(v[0], v[1], v[2], {{v[3], v[4], 7}}, {7, 5, {}})};
  };
  const std::vector<DType> narrow(5, DType::kBF16), exact(5, DType::kF64);
  const Evaluation a = RunOn(f, inputs, narrow), b = RunOn(f, inputs, exact);
  ExpectClose(a.outputs[0], b.outputs[0], kUnit, kUnit, "output");
  for (size_t i = 0; i < 5; ++i) {
    ExpectClose(a.gradients[i], b.gradients[i], kUnit, 3 * kUnit, fmt::format("gradient {}", i));
  }
}

TEST(Bf16, LossesAreSinglePrecision) {
  const Tensor inputs[] = {Uniform({5, 16}, 1, -2, 2), Uniform({11, 16}, 2, -2, 2)};
  const Tensor targets = Tensor::FromHost(std::vector<int32_t>{0, 10, -1, 4, 5}, {5});
  for (const int64_t tile : {4, 11}) {
    const Function f = [&](std::span<const Var> v) -> std::vector<Var> {
      return {CrossEntropy(v[0], v[1], targets, tile)};
    };
    const DType narrow[] = {DType::kBF16, DType::kBF16};
    EXPECT_EQ(RunOn(f, inputs, narrow).outputs[0].dtype(), DType::kF32);
    Compare(f, inputs, {}, {.gradients = 3});
  }
}

MemoryProblem Problem() {
  MemoryRule rule;
  rule.head_dim = 6;
  rule.hidden = 10;
  rule.chunk = 4;
  return MakeMemoryProblem(rule, 21, false, 3);
}

// q, k and v are rounded, and y once; gates, parameters and the state are f32.
TEST(Bf16, TheMemoryComputesInSinglePrecision) {
  const MemoryProblem problem = Problem();
  std::vector<size_t> wide;
  for (size_t i = 3; i < problem.inputs.size(); ++i) wide.push_back(i);
  // 21 tokens of a recurrence: f32's rounding grows with them.
  Compare(ScanFunction(problem), problem.inputs, wide,
          {.outputs = 1.001, .gradients = 2, .single = 1000});
}

// What a token of tiny theta writes is far below half a unit of bf16 beside W, and stays.
TEST(Bf16, SmallWritesAreNotLost) {
  MemoryProblem problem = Problem();
  problem.rule.forgetting = Forgetting::kNever;
  problem.rule.momentum = false;
  problem = MakeMemoryProblem(problem.rule, 8, false, 3);
  for (size_t i = 0; i < problem.inputs.size(); ++i) {
    if (problem.names[i] == "theta") {
      problem.inputs[i] = Tensor::Full(problem.inputs[i].shape(), 1e-5, DType::kF64);
    }
  }
  const auto change = [&](DType narrow, DType wide) {
    std::vector<Var> inputs;
    for (size_t i = 0; i < problem.inputs.size(); ++i) {
      inputs.emplace_back(problem.inputs[i].To(DType::kBF16).To(i < 3 ? narrow : wide));
    }
    const MemoryArguments arguments = Unpack(problem.rule, inputs);
    const MemoryScanResult result =
        MemoryScan(problem.rule, arguments.parameters, arguments.tokens, arguments.state);
    EXPECT_EQ(result.state.w.w[0].dtype(), wide);
    return Sub(result.state.w.w[0], arguments.state.w.w[0]).value();
  };
  const Tensor written = change(DType::kBF16, DType::kF32);
  const Tensor exact = change(DType::kF64, DType::kF64);
  const double largest = Largest(exact.ToDoubles());
  ASSERT_GT(largest, 0);
  ASSERT_LT(largest, 0x1p-12);  // of weights of order one
  // W itself is of order one, in f32.
  EXPECT_LE(Largest(Sub(Cast(written, DType::kF64), exact).value().ToDoubles()),
            0.01 * largest + 4 * kSingle);
}

}  // namespace
}  // namespace mnemo::testing
