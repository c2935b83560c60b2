#include "src/model/flops.h"

#include <gtest/gtest.h>

#include "src/model/parameters.h"

namespace mnemo {
namespace {

MemoryRule DeepRule() {
  MemoryRule rule;
  rule.head_dim = 64;
  rule.hidden = 256;
  rule.chunk = 64;
  return rule;
}

TEST(FlopsTest, MemoryRuleAtDepthTwo) {
  // 72 f^2 + 20 b f, and 16 f^2 for reading through S.
  const double f = 64, b = 64;
  EXPECT_DOUBLE_EQ(MemoryFlopsPerHead(DeepRule()), 88 * f * f + 20 * b * f);
}

TEST(FlopsTest, MemoryRuleOptions) {
  const double f = 64, b = 64;
  MemoryRule rule = DeepRule();
  rule.forgetting = Forgetting::kTowardsInitial;
  EXPECT_DOUBLE_EQ(MemoryFlopsPerHead(rule), 88 * f * f + 20 * b * f + 32 * f * f);
  rule = DeepRule();
  rule.momentum = false;
  EXPECT_DOUBLE_EQ(MemoryFlopsPerHead(rule), 56 * f * f + 20 * b * f);
  rule = DeepRule();
  rule.depth = 1;
  // Keys, read, state; S twice; no delta passes through a single matrix.
  EXPECT_DOUBLE_EQ(MemoryFlopsPerHead(rule), 10 * f * f + 4 * b * f);
}

ModelSpec Transformer() {
  ModelSpec spec{};
  spec.block = BlockKind::kTransformer;
  spec.layers = 3;
  spec.width = 32;
  spec.heads = 4;
  spec.vocabulary = 100;
  spec.mlp_hidden = 96;
  spec.epsilon = 1e-6;
  spec.window = 8;
  spec.rope_base = 1e4;
  return spec;
}

// Twice the weights that multiply activations: a check against the list of parameters.
TEST(FlopsTest, LinearIsTwiceTheMatrices) {
  const ModelSpec spec = Transformer();
  double weights = 0;
  for (const ParameterInfo& info : DescribeParameters(spec)) {
    if (info.decay) weights += static_cast<double>(ElementCount(info.shape));
  }
  EXPECT_DOUBLE_EQ(CountForwardFlops(spec, 64).linear, 2 * weights);
}

TEST(FlopsTest, AttentionCountsVisibleKeys) {
  ModelSpec spec = Transformer();
  // A brute count over positions.
  double keys = 0;
  for (int position = 0; position < 20; ++position) keys += std::min(position + 1, 8);
  EXPECT_NEAR(CountForwardFlops(spec, 20).attention, 3 * 4 * 32 * keys / 20, 1e-9);
  spec.window = 0;
  EXPECT_NEAR(CountForwardFlops(spec, 20).attention, 3 * 4 * 32 * 10.5, 1e-9);
  spec.persistent_tokens = 5;
  EXPECT_NEAR(CountForwardFlops(spec, 20).attention, 3 * 4 * 32 * 15.5, 1e-9);
  spec.block = BlockKind::kMac;
  spec.segment = 10;
  spec.rule = DeepRule();
  EXPECT_NEAR(CountForwardFlops(spec, 20).attention, 3 * 4 * 32 * (5 + 2 * 5.5), 1e-9);
}

TEST(FlopsTest, AStepIsThreeForwards) {
  const ForwardFlops forward{1, 2, 3};
  EXPECT_DOUBLE_EQ(ModelFlops(forward), 18);
}

}  // namespace
}  // namespace mnemo
