// What `mnemo bench stability` measures, and that the shipped memories pass it. Here a shorter
// length; stability_long_test runs all of it.
#include "src/model/stability.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "src/core/config_text.h"
#include "src/core/ops.h"
#include "src/core/random.h"
#include "src/model/config_check.h"
#include "src/model/stability_inputs.h"

namespace mnemo {
namespace {

#ifndef MNEMO_STABILITY_TOKENS
#error "the number of tokens is given by the build"
#endif
constexpr int64_t kTokens = MNEMO_STABILITY_TOKENS;
constexpr uint64_t kSeed = 1;

// Depth 2, LN, residual, unit weights, theta_max 1/64, one head of 64.
ModelSpec DeepSpec(double alpha, int64_t chunk = 16) {
  ModelSpec spec{};
  spec.block = BlockKind::kLmm;
  spec.layers = spec.heads = 1;
  spec.width = 64;
  spec.epsilon = 1e-6;
  spec.rule = {.depth = 2, .head_dim = 64, .hidden = 256, .chunk = chunk};
  spec.gates = {.theta_max = 1.0 / 64,
                .eta_max = 0.98,
                .alpha_max = 0.98,
                .average_surprise = true,
                .theta_bias = 0,
                .eta_bias = 0,
                .alpha_first = alpha,
                .alpha_last = alpha};
  spec.unit_initial_weights = spec.normalize_qk = true;
  return spec;
}

HeadGrowth Measure(const ModelSpec& spec, int64_t tokens) {
  const int64_t head[] = {0};
  return MeasureGrowth(FirstMemoryRun(spec, head, MemoryInputs::kRandom, tokens, kSeed), kSeed)[0];
}

struct Shipped {
  std::string name;
  ModelSpec spec;
};

// The distinct memories of the shipped configurations.
std::vector<Shipped> ShippedMemories() {
  std::vector<Shipped> list;
  const auto names = FileSystem::Posix().List(MNEMO_CONFIGS);
  EXPECT_TRUE(names.ok()) << names.status();
  for (const std::string& name : *names) {
    v1::RunConfig written;
    const std::string path = std::string(MNEMO_CONFIGS) + "/" + name;
    EXPECT_TRUE(LoadConfigFile(FileSystem::Posix(), path, &written).ok());
    absl::StatusOr<v1::RunConfig> config = EffectiveConfig(written, name);
    EXPECT_TRUE(config.ok()) << config.status();
    if (config->model().vocabulary() == 0) config->mutable_model()->set_vocabulary(1);
    const ModelSpec spec = MakeSpec(config->model());
    const bool known = std::any_of(list.begin(), list.end(), [&](const Shipped& other) {
      return SameMemory(spec, other.spec);
    });
    if (spec.has_memory() && !known) list.push_back({name, spec});
  }
  return list;
}

// The first, the last and a head between: the ends of alpha's range and its middle.
std::vector<int64_t> HeadsOf(const ModelSpec& spec) { return DistinctHeads(spec, 3); }

TEST(StabilityTest, ShippedMemoriesStayBelowTheLimit) {
  const std::vector<Shipped> memories = ShippedMemories();
  ASSERT_GE(memories.size(), 4u);
  for (const Shipped& memory : memories) {
    const std::vector<int64_t> heads = HeadsOf(memory.spec);
    const std::vector<HeadGrowth> growth = MeasureGrowth(
        FirstMemoryRun(memory.spec, heads, MemoryInputs::kRandom, kTokens, kSeed), kSeed);
    ASSERT_EQ(growth.size(), heads.size());
    for (size_t i = 0; i < heads.size(); ++i) {
      EXPECT_TRUE(growth[i].Passes())
          << memory.name << " head " << heads[i] << ": adjoint " << growth[i].adjoint
          << ", perturbation " << growth[i].perturbation;
      EXPECT_GE(growth[i].adjoint, 1);
      EXPECT_GE(growth[i].perturbation, 1);
      EXPECT_GT(growth[i].last_adjoint, 0);
    }
  }
}

TEST(StabilityTest, ARepeatedKeyStaysFinite) {
  for (const Shipped& memory : ShippedMemories()) {
    const std::vector<int64_t> heads = HeadsOf(memory.spec);
    const std::vector<double> largest = LargestStates(
        FirstMemoryRun(memory.spec, heads, MemoryInputs::kRepeatedKey, kTokens, kSeed));
    for (size_t i = 0; i < heads.size(); ++i) {
      EXPECT_TRUE(std::isfinite(largest[i])) << memory.name << " head " << heads[i];
    }
  }
}

TEST(StabilityTest, StrongForgettingTowardsZeroExplodes) {
  const HeadGrowth growth = Measure(DeepSpec(0.018), 2048);
  EXPECT_FALSE(growth.Passes());
  EXPECT_GT(growth.adjoint, 1e6);
  EXPECT_GT(growth.perturbation, 1e6);
}

TEST(StabilityTest, TheSameTowardsTheFirstWeightsDoesNot) {
  ModelSpec spec = DeepSpec(0.018);
  spec.rule.forgetting = Forgetting::kTowardsInitial;
  EXPECT_TRUE(Measure(spec, 2048).Passes());
}

TEST(StabilityTest, ALinearMemoryAboveItsBoundOverflows) {
  ModelSpec spec = DeepSpec(1e-3, 64);
  spec.rule.depth = 1;
  spec.rule.layer_norm = spec.rule.residual = false;
  spec.gates.theta_max = 0.5;  // 32 times 1 / chunk
  const int64_t head[] = {0};
  const auto largest = [&] {
    return LargestStates(FirstMemoryRun(spec, head, MemoryInputs::kRepeatedKey, 64'000, kSeed))[0];
  };
  EXPECT_TRUE(std::isinf(largest()));
  spec.gates.theta_max = 1.0 / 64;
  EXPECT_TRUE(std::isfinite(largest()));
}

// A small rule with everything on, so that no part of the state is left out.
MemoryRun SmallRun(int64_t tokens) {
  ModelSpec spec = DeepSpec(1e-2, 4);
  spec.heads = 2;
  spec.width = 16;
  spec.rule.head_dim = 8;
  spec.rule.hidden = 12;
  spec.rule.biases = true;
  const int64_t heads[] = {0, 1};
  return FirstMemoryRun(spec, heads, MemoryInputs::kRandom, tokens, kSeed);
}

double NormOfHead(const std::vector<Tensor>& list, int64_t head) {
  double sum = 0;
  for (const Tensor& x : list) {
    sum += SumAll(Square(Var(x.Slice(1, head, head + 1)))).value().Item();
  }
  return std::sqrt(sum);
}

// Chunk by chunk from kept states, the adjoint is what one tape over the whole sequence gives.
TEST(StabilityTest, TheAdjointIsThatOfTheWholeSequence) {
  constexpr int64_t kLength = 4 * 23;
  const MemoryRun run = SmallRun(kLength + 3);  // the unfinished chunk is left out
  Tape tape;
  MemoryState state = InitialMemoryState(run.rule, run.parameters, 1);
  std::vector<Var> leaves;
  ForEachVar(run.rule, state, [&](Var& x) {
    x = tape.Leaf(x.value());
    leaves.push_back(x);
  });
  const Var y = MemoryScan(run.rule, run.parameters, run.inputs(0, kLength), state).y;
  const Var last = Slice(y, 2, kLength - 4, kLength);
  const RandomStream stream(kSeed, 0, "stability/projection");
  std::vector<double> projection(last.value().elements());
  for (size_t i = 0; i < projection.size(); ++i) projection[i] = stream.Normal(i);
  const Tensor dy = Tensor::FromHost(projection, last.shape(), DType::kF64);
  const std::vector<Tensor> adjoint = tape.Gradient({&last, 1}, {&dy, 1}, leaves);
  const std::vector<HeadGrowth> growth = MeasureGrowth(run, kSeed);
  for (int64_t head = 0; head < 2; ++head) {
    const double expected = NormOfHead(adjoint, head);
    EXPECT_NEAR(growth[head].first_adjoint, expected, 1e-11 * expected);
    EXPECT_GE(growth[head].adjoint * growth[head].last_adjoint, expected * (1 - 1e-12));
  }
}

// With nothing written (theta 0) the state and what perturbs it change by (1 - alpha) a token.
TEST(StabilityTest, ThePerturbationGrowsAsTheStateDoes) {
  MemoryRun run = SmallRun(40);
  const auto inputs = run.inputs;
  run.inputs = [inputs](int64_t begin, int64_t end) {
    MemoryTokens tokens = inputs(begin, end);
    tokens.theta = Scale(tokens.theta, 0);
    tokens.alpha = Affine(tokens.alpha, 0, -0.1);  // grows by 1.1 a token
    return tokens;
  };
  const std::vector<HeadGrowth> growth = MeasureGrowth(run, kSeed);
  const double expected = std::pow(1.1, 40);
  for (const HeadGrowth& head : growth) {
    EXPECT_NEAR(head.perturbation, expected, 1e-4 * expected);  // delta is 1e-10 of the state
    EXPECT_EQ(head.perturbation_token, 40);
    EXPECT_NEAR(head.largest_state, head.first_state * expected, 1e-11 * expected);
  }
}

TEST(StabilityTest, HeadsAreMeasuredOnTheirOwn) {
  ModelSpec spec = DeepSpec(1e-2);
  spec.heads = 4;
  spec.width = 256;
  spec.gates.alpha_last = 1e-5;
  const auto measure = [&](std::vector<int64_t> heads) {
    return MeasureGrowth(FirstMemoryRun(spec, heads, MemoryInputs::kRandom, 256, kSeed), kSeed);
  };
  const HeadGrowth alone = measure({3})[0], beside = measure({0, 3})[1];
  EXPECT_NEAR(alone.first_state, beside.first_state, 1e-12 * alone.first_state);
  EXPECT_NEAR(alone.largest_state, beside.largest_state, 1e-10 * alone.largest_state);
}

TEST(StabilityTest, LessThanTwoChunksIsAnError) {
  EXPECT_THROW(Measure(DeepSpec(1e-3), 31), TensorError);
}

}  // namespace
}  // namespace mnemo
