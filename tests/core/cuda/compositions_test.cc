// The fused ops by their composed definitions on a GPU, forward and backward: f64 against the CPU's
// f64, and f32 no further off than the CPU's own f32. What runs where there is no kernel.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "src/core/fused/attention.h"
#include "src/core/fused/cross_entropy.h"
#include "src/core/fused/layers.h"
#include "src/core/fused_op.h"
#include "tests/core/cuda/gpu_case.h"
#include "tests/core/memory_problem.h"
#include "tests/core/memory_rules.h"

namespace mnemo::testing {
namespace {

class CudaCompositions : public ::testing::Test {
 protected:
  void SetUp() override { SetFusedPolicy({.enabled = false}); }
  void TearDown() override { SetFusedPolicy({}); }
};

double Worst(const Evaluation& a, const Evaluation& b) {
  double worst = 0;
  for (size_t i = 0; i < b.outputs.size(); ++i) {
    worst = std::max(worst, RelativeError(a.outputs[i], b.outputs[i]));
  }
  for (size_t i = 0; i < b.gradients.size(); ++i) {
    worst = std::max(worst, RelativeError(a.gradients[i], b.gradients[i]));
  }
  return worst;
}

// `on(device)` is the function for tensors of a device; `exact` what f64 may be off.
template <typename On>
void Compare(const On& on, const std::vector<Tensor>& inputs, double exact) {
  const Setting single{.dtype = DType::kF32};
  const std::vector<Tensor> rounded = RoundedFor(single, inputs);
  const Evaluation want = EvaluateIn({}, on(Device{}), rounded);
  for (const bool strided : {false, true}) {
    const Setting gpu{.device = kGpu, .strided = strided};
    EXPECT_LE(Worst(EvaluateIn(gpu, on(kGpu), rounded), want), exact);
  }
  const double cpu = Worst(EvaluateIn(single, on(Device{}), rounded), want);
  const double gpu =
      Worst(EvaluateIn({.dtype = DType::kF32, .device = kGpu}, on(kGpu), rounded), want);
  EXPECT_LE(gpu, 8 * cpu + 64 * UnitRoundoff(DType::kF32));
}

constexpr double kDouble = 1e-12;

TEST_F(CudaCompositions, NormsGatesAndConvolutions) {
  const Tensor x = Uniform({2, 5, 6}, 1, -3, 3), z = Uniform({2, 5, 6}, 2), w = Uniform({6}, 3);
  const auto one = [](Var y) { return std::vector<Var>{std::move(y)}; };
  for (const int64_t heads : {1, 3}) {
    Compare(
        [&](Device) {
          return [=](std::span<const Var> v) { return one(RmsNorm(v[0], v[1], heads, 1e-6)); };
        },
        {x, w}, kDouble);
    Compare(
        [&](Device) {
          return [=](std::span<const Var> v) { return one(L2Norm(v[0], heads, 1e-6)); };
        },
        {x}, kDouble);
  }
  Compare([&](Device) { return [=](std::span<const Var> v) { return one(SwiGlu(v[0], v[1])); }; },
          {x, z}, kDouble);
  for (const std::vector<int64_t>& reach :
       {std::vector<int64_t>{}, std::vector<int64_t>{1, 2, 3, 1, 2, 9, 9, 9, 1, 2}}) {
    for (const int64_t heads : {0, 2}) {
      Compare(
          [&](Device) {
            return [=](std::span<const Var> v) {
              return one(ConvSiluNorm(v[0], v[1], v[2], heads, 1e-6, reach));
            };
          },
          {Uniform({2, 3, 6}, 4), x, Uniform({6, 4}, 5)}, kDouble);
    }
  }
}

TEST_F(CudaCompositions, Rotation) {
  const std::vector<int64_t> positions = {0, 3, 2'000'000, 7, 8, 9};
  Compare(
      [&](Device device) {
        return [=](std::span<const Var> v) {
          const RotaryTables tables =
              MakeRotaryTables(positions, 2, 4, 10'000, v[0].dtype(), device);
          return std::vector<Var>{Rotate(v[0], tables)};
        };
      },
      {Uniform({2, 2, 3, 4}, 1)}, kDouble);
}

TEST_F(CudaCompositions, CrossEntropy) {
  const std::vector<int32_t> targets = {0, 10, -1, 4, 3, 7};
  for (const int64_t tile : {1, 4, 100}) {
    Compare(
        [&](Device device) {
          return [=](std::span<const Var> v) {
            return std::vector<Var>{
                CrossEntropy(v[0], v[1], Tensor::FromHost(targets, {6}, device), tile)};
          };
        },
        {Uniform({6, 5}, 1, -2, 2), Uniform({11, 5}, 2, -2, 2)}, kDouble);
  }
}

TEST_F(CudaCompositions, Attention) {
  std::vector<int64_t> starts;  // documents begin at different places in the two sequences
  for (int64_t t = 0; t < 5; ++t) starts.push_back(t < 2 ? 8 : 12);
  for (int64_t t = 0; t < 5; ++t) starts.push_back(t < 4 ? 0 : 14);
  struct Case {
    std::string name;
    int64_t batch = 2, queries = 5, persistent = 0;
    std::vector<std::pair<int64_t, int64_t>> runs;  // first position, length
    AttentionMask mask = {};
  };
  for (const Case& c :
       {Case{.name = "full", .runs = {{0, 5}}},
        Case{.name = "window with carried keys", .runs = {{6, 4}, {10, 5}}, .mask = {10, 3, {}}},
        Case{.name = "documents", .runs = {{7, 3}, {10, 5}}, .mask = {10, 4, starts}},
        Case{.name = "persistent and two runs",
        .persistent = 3,
        .runs = {{20, 5}, {20, 5}},
        .mask = {20, 0, {}}},
        Case{.name = "many blocks",
        .batch = 1,
        .queries = 700,
        .persistent = 2,
        .runs = {{-30, 30}, {0, 700}},
        .mask = {0, 50, {}}}}) {
    SCOPED_TRACE(c.name);
    std::vector<Tensor> inputs = {Uniform({c.batch, 2, c.queries, 4}, 1, -2, 2)};
    const auto add = [&](int64_t batch, int64_t rows) {
      for (int i = 0; i < 2; ++i) {
        inputs.push_back(Uniform({batch, 2, rows, 4}, 2 + inputs.size(), -2, 2));
      }
    };
    if (c.persistent > 0) add(1, c.persistent);
    for (const auto& run : c.runs) add(c.batch, run.second);
    Compare(
        [&](Device) {
          return [=](std::span<const Var> v) {
            const size_t first = c.persistent > 0 ? 3 : 1;
            std::vector<KeyRun> runs;
            for (size_t i = 0; i < c.runs.size(); ++i) {
              runs.push_back({v[first + 2 * i], v[first + 2 * i + 1], c.runs[i].first});
            }
            const Var none;
            return std::vector<Var>{
                Attention(v[0], first == 3 ? v[1] : none, first == 3 ? v[2] : none, runs, c.mask)};
          };
        },
        inputs, kDouble);
  }
}

// A sample of the rules; layer norms of short rows can be badly conditioned.
TEST_F(CudaCompositions, MemoryScan) {
  uint64_t seed = 1;
  for (const MemoryRule& rule : SomeRules(131)) {
    for (const bool resets : {false, true}) {
      SCOPED_TRACE(Describe(rule) + (resets ? " with resets" : ""));
      const MemoryProblem problem = MakeMemoryProblem(rule, 11, resets, seed++);
      Compare(
          [&](Device device) {
            MemoryProblem there = problem;
            if (resets) there.resets = problem.resets.To(device);
            return ScanFunction(there, {5, 6});
          },
          problem.inputs, 1e-10);
    }
  }
}

}  // namespace
}  // namespace mnemo::testing
