// The chunk form of the memory against its token-by-token definitions, in f64.
#include <gtest/gtest.h>

#include <cmath>

#include "src/core/ops.h"
#include "tests/core/memory_comparison.h"
#include "tests/core/memory_rules.h"

namespace mnemo::testing {
namespace {

// Prime to all numbers of choices.
constexpr size_t kStride = 31;

MemoryRule PlainRule(int depth) {
  MemoryRule rule;
  rule.depth = depth;
  rule.head_dim = 4;
  rule.hidden = 6;
  rule.chunk = 4;
  return rule;
}

// Rules that between them use everything the scan carries from chunk to chunk.
std::vector<MemoryRule> TypicalRules() {
  MemoryRule full = PlainRule(2);
  full.biases = full.row_scale = true;
  full.clamp = 1.5;
  full.forgetting = Forgetting::kTowardsInitial;
  MemoryRule linear = PlainRule(1);
  linear.layer_norm = linear.residual = linear.momentum = false;
  linear.forgetting = Forgetting::kNever;
  return {PlainRule(2), full, linear};
}

TEST(MemoryExactness, ValuesMatchTheReference) {
  double worst = 0;
  uint64_t seed = 0;
  for (const MemoryRule& rule : SomeRules(kStride)) {
    ++seed;
    const int64_t tokens = seed % 3 == 0 ? 8 : 11;
    worst =
        std::max(worst, CompareWithReference(MakeMemoryProblem(rule, tokens, seed % 2 == 0, seed)));
  }
  RecordProperty("worst_error", std::to_string(worst));
}

TEST(MemoryExactness, GradientsMatchTheRuleTokenByToken) {
  double worst = 0;
  uint64_t seed = 0;
  for (const MemoryRule& rule : SomeRules(kStride)) {
    ++seed;
    const int64_t tokens = seed % 3 == 0 ? 8 : 11;
    worst = std::max(worst, CompareWithNaive(MakeMemoryProblem(rule, tokens, seed % 2 == 0, seed)));
  }
  RecordProperty("worst_error", std::to_string(worst));
}

TEST(MemoryExactness, GradientsMatchDifferences) {
  for (const MemoryRule& rule : TypicalRules()) {
    const MemoryProblem problem = MakeMemoryProblem(rule, 10, true, 7);
    EXPECT_LT(
        FirstDerivativeError(ScanFunction(problem), problem.inputs, {.step = 3e-4, .samples = 2}),
        1e-7)
        << Describe(rule);
  }
}

// Any cut of the tokens, also inside chunks, and one token at a time.
TEST(MemoryExactness, PiecesMatchTheWhole) {
  const std::vector<std::vector<int64_t>> cuts = {
      std::vector<int64_t>(11, 1), {3, 1, 7}, {4, 7}, {1, 10}, {8, 2, 1}, {5, 6}};
  for (const MemoryRule& rule : TypicalRules()) {
    for (const bool resets : {false, true}) {
      const MemoryProblem problem = MakeMemoryProblem(rule, 11, resets, 3);
      const Evaluation whole = Evaluate(ScanFunction(problem), problem.inputs);
      for (const std::vector<int64_t>& cut : cuts) {
        const Evaluation pieces = Evaluate(ScanFunction(problem, cut), problem.inputs);
        for (size_t i = 0; i < whole.outputs.size(); ++i) {
          EXPECT_LT(RelativeError(pieces.outputs[i], whole.outputs[i]), 1e-13) << Describe(rule);
        }
        for (size_t i = 0; i < whole.gradients.size(); ++i) {
          EXPECT_LT(RelativeError(pieces.gradients[i], whole.gradients[i]), 1e-12)
              << Describe(rule) << ", " << problem.names[i];
        }
      }
    }
  }
}

// Beyond 64 chunks the scan keeps only some states and runs groups of chunks again: same values bit
// for bit, same gradients but for the order in which groups are summed.
TEST(MemoryExactness, GroupsOfChunksMatchOneRun) {
  for (MemoryRule rule : TypicalRules()) {
    rule.chunk = 2;
    rule.layer_norm = true;  // keeps a long run of random tokens tame
    for (const int64_t open : {0, 1}) {
      const MemoryProblem problem = MakeMemoryProblem(rule, 2 * 70 + 1, true, 5);
      const Function whole =
          ScanFunction(problem, open ? std::vector<int64_t>{1, 140} : std::vector<int64_t>{});
      const Function cut = ScanFunction(problem, {101, 40});  // each below 64 chunks
      const std::vector<Var> constants(problem.inputs.begin(), problem.inputs.end());
      const std::vector<Var> once = whole(constants);  // nothing to differentiate: one run
      const Evaluation grouped = Evaluate(whole, problem.inputs);
      const Evaluation direct = Evaluate(cut, problem.inputs);
      for (size_t i = 0; i < once.size(); ++i) {
        EXPECT_EQ(grouped.outputs[i].ToDoubles(), once[i].value().ToDoubles()) << Describe(rule);
      }
      for (size_t i = 0; i < direct.gradients.size(); ++i) {
        EXPECT_LT(RelativeError(grouped.gradients[i], direct.gradients[i]), kExact)
            << Describe(rule) << ", " << problem.names[i];
      }
      // A few nodes a group on the tape instead of dozens a chunk.
      const auto nodes = [&](const Function& f) {
        Tape tape;
        std::vector<Var> leaves;
        for (const Tensor& x : problem.inputs) leaves.push_back(tape.Leaf(x));
        f(leaves);
        return tape.size();
      };
      EXPECT_LT(10 * nodes(whole), nodes(cut));
    }
  }
}

// Changing token j changes no read before j, bit for bit.
TEST(MemoryExactness, ReadsDependOnThePastOnly) {
  for (const MemoryRule& rule : TypicalRules()) {
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      const MemoryProblem problem = MakeMemoryProblem(rule, 11, false, 9);
      std::vector<Var> inputs;
      for (const Tensor& x : problem.inputs) inputs.push_back(Var(x.To(dtype)));
      const Tensor y = ScanFunction(problem)(inputs)[0].value();
      const size_t token_inputs = 4 + rule.momentum + (rule.forgetting != Forgetting::kNever);
      for (int64_t j = 0; j < problem.tokens; ++j) {
        std::vector<Var> changed = inputs;
        for (size_t i = 0; i < token_inputs; ++i) {
          const Var row = Slice(inputs[i], 2, j, j + 1);
          const Var parts[] = {Slice(inputs[i], 2, 0, j), Affine(row, 0.5, 0.01),
                               Slice(inputs[i], 2, j + 1, problem.tokens)};
          changed[i] = Concat(parts, 2);
        }
        const Tensor z = ScanFunction(problem)(changed)[0].value();
        EXPECT_EQ(z.Slice(2, 0, j).ToDoubles(), y.Slice(2, 0, j).ToDoubles());
        EXPECT_NE(z.Slice(2, j, j + 1).ToDoubles(), y.Slice(2, j, j + 1).ToDoubles());
      }
    }
  }
}

// One unit key over and over with a write strength far too large for the chunk: the clamp keeps
// the linear memory finite, without it the state explodes.
TEST(MemoryExactness, TheClampKeepsARepeatedKeyFinite) {
  MemoryRule rule = PlainRule(1);
  rule.layer_norm = rule.residual = false;
  rule.chunk = 16;
  const auto last_read = [](const MemoryRule& rule) {
    const int64_t tokens = 4096;
    MemoryProblem problem = MakeMemoryProblem(rule, tokens, false, 1);
    const Tensor key = Uniform({1, 1, 1, 4}, 4).BroadcastTo({2, 2, tokens, 4});
    problem.inputs[0] = problem.inputs[1] = key;
    problem.inputs[3] = Tensor::Full({2, 2, tokens, 1}, 0.5, DType::kF64);
    problem.inputs[4] = Tensor::Full({2, 2, tokens, 1}, 0.9, DType::kF64);
    problem.inputs[5] = Tensor::Full({2, 2, tokens, 1}, 0.01, DType::kF64);
    const std::vector<Var> inputs(problem.inputs.begin(), problem.inputs.end());
    double largest = 0;
    for (const double y : ScanFunction(problem)(inputs)[0].value().ToDoubles()) {
      largest = std::isfinite(y) ? std::max(largest, std::fabs(y)) : INFINITY;
    }
    return largest;
  };
  EXPECT_GT(last_read(rule), 1e30);
  rule.clamp = 1;
  EXPECT_LT(last_read(rule), 1e4);
}

}  // namespace
}  // namespace mnemo::testing
