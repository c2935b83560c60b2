// What `mnemo bench accuracy` measures.
#include "src/model/scan_error.h"

#include <gmock/gmock.h>

#include <cmath>

#include "src/core/status.h"
#include "src/model/stability_inputs.h"

namespace mnemo {
namespace {

using testing::ElementsAre;

constexpr double kBf16 = 1.0 / 512, kF32 = 1.0 / (1 << 24);  // largest relative error of rounding
constexpr int64_t kChunk = 16;

ModelSpec Spec() {
  ModelSpec spec{};
  spec.block = BlockKind::kLmm;
  spec.layers = 1;
  spec.heads = 2;
  spec.width = 32;
  spec.epsilon = 1e-6;
  spec.rule = {.depth = 2, .head_dim = 16, .hidden = 32, .chunk = kChunk};
  spec.gates = {.theta_max = 1.0 / 16,
                .eta_max = 0.98,
                .alpha_max = 0.98,
                .average_surprise = true,
                .theta_bias = 0,
                .eta_bias = 0,
                .alpha_first = 1e-3,
                .alpha_last = 1e-4};
  spec.unit_initial_weights = spec.normalize_qk = true;
  return spec;
}

MemoryRun MakeRun(const ModelSpec& spec, int64_t tokens) {
  const int64_t heads[] = {0, 1};
  return FirstMemoryRun(spec, heads, MemoryInputs::kRandom, tokens, 1);
}

std::vector<std::string> Names(const std::vector<ScanError>& errors) {
  std::vector<std::string> names;
  for (const ScanError& error : errors) names.push_back(error.name);
  return names;
}

// On the CPU all is computed in f32: y and the gradients of q, k and v are rounded once, to bf16.
TEST(ScanErrorTest, IsThatOfRoundingWhereF32Computes) {
  const MemoryRun run = MakeRun(Spec(), 6 * kChunk);
  const int64_t places[] = {0, 3 * kChunk};
  const std::vector<MemoryState> states = StatesBefore(run, places);
  for (size_t i = 0; i < states.size(); ++i) {
    const ScanErrors errors =
        MeasureScanErrors(run, states[i], places[i], places[i] + kChunk, {}, 1);
    EXPECT_FALSE(errors.kernel);
    EXPECT_THAT(Names(errors.values), ElementsAre("y"));
    EXPECT_THAT(Names(errors.carry), ElementsAre("W1", "W2", "S1", "S2"));
    EXPECT_THAT(Names(errors.gradients),
                ElementsAre("d q", "d k", "d v", "d theta", "d eta", "d alpha", "d norm weight",
                            "d norm bias", "d W1", "d W2", "d S1", "d S2"));
    EXPECT_LT(errors.values[0].relative, kBf16);
    EXPECT_GT(errors.values[0].relative, kBf16 / 10);  // it was rounded
    // Sums over a chunk and the width of a network, a few times over.
    for (const ScanError& error : errors.carry) EXPECT_LT(error.relative, 200 * kF32) << error.name;
    for (const ScanError& error : errors.gradients) {
      const bool narrow = error.name == "d q" || error.name == "d k" || error.name == "d v";
      EXPECT_LT(error.relative, narrow ? kBf16 : 2000 * kF32) << error.name;
    }
  }
}

TEST(ScanErrorTest, NamesWhatTheRuleHas) {
  ModelSpec spec = Spec();
  spec.rule.depth = 1;
  spec.rule.layer_norm = spec.rule.momentum = false;
  spec.rule.biases = spec.rule.row_scale = true;
  spec.rule.forgetting = Forgetting::kTowardsInitial;
  const MemoryRun run = MakeRun(spec, 2 * kChunk);
  const int64_t places[] = {0};
  const ScanErrors errors =
      MeasureScanErrors(run, StatesBefore(run, places)[0], 0, 2 * kChunk, {}, 1);
  EXPECT_THAT(Names(errors.carry), ElementsAre("W1", "c1"));
  EXPECT_THAT(Names(errors.gradients),
              ElementsAre("d q", "d k", "d v", "d theta", "d alpha", "d W_0 of 1", "d c_0 of 1",
                          "d row scale", "d W1", "d c1"));
}

// What f64 holds and f32 does not.
TEST(ScanErrorTest, AnOverflowIsInfinitelyWrong) {
  MemoryRun run = MakeRun(Spec(), kChunk);
  for (Var& w : run.parameters.initial.w) {
    w = Var(Tensor::Full(w.shape(), 1e25, DType::kF64));
  }
  const int64_t places[] = {0};
  const ScanErrors errors = MeasureScanErrors(run, StatesBefore(run, places)[0], 0, kChunk, {}, 1);
  EXPECT_TRUE(std::isinf(errors.values[0].relative));
}

TEST(ScanErrorTest, StatesAreThoseThatTheTokensLeadTo) {
  const MemoryRun run = MakeRun(Spec(), 70 * kChunk);
  const int64_t places[] = {0, 2 * kChunk, 69 * kChunk};
  const std::vector<MemoryState> states = StatesBefore(run, places);
  MemoryState state = InitialMemoryState(run.rule, run.parameters, 1);
  state = MemoryScan(run.rule, run.parameters, run.inputs(0, 69 * kChunk), state).state;
  EXPECT_EQ(states[2].w.w[0].value().ToDoubles(), state.w.w[0].value().ToDoubles());
  EXPECT_EQ(states[2].s.w[1].value().ToDoubles(), state.s.w[1].value().ToDoubles());
  EXPECT_NE(states[1].w.w[0].value().ToDoubles(), state.w.w[0].value().ToDoubles());
}

TEST(ScanErrorTest, RefusesWhatIsNotWholeChunks) {
  const MemoryRun run = MakeRun(Spec(), 2 * kChunk);
  const int64_t inside[] = {3}, beyond[] = {2 * kChunk}, back[] = {kChunk, 0}, first[] = {0};
  EXPECT_THROW(StatesBefore(run, inside), TensorError);
  EXPECT_THROW(StatesBefore(run, beyond), TensorError);
  EXPECT_THROW(StatesBefore(run, back), TensorError);
  EXPECT_THROW(MeasureScanErrors(run, StatesBefore(run, first)[0], 0, kChunk + 1, {}, 1),
               TensorError);
}

}  // namespace
}  // namespace mnemo
