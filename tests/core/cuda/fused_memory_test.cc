// The kernels of the memory scan on a GPU.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "src/core/fused/memory_scan.h"
#include "src/core/fused_op.h"
#include "src/core/ops.h"
#include "tests/core/cuda/fused_compare.h"

namespace mnemo {
namespace {

// `resets`: flags of the chunks [batch, chunks], or empty.
void CompareMemory(const MemoryRule& rule, int64_t batch, int64_t heads, int64_t tokens,
                   const std::vector<double>& resets = {}) {
  SCOPED_TRACE(fmt::format("depth {} chunk {} tokens {} forgetting {} clamp {}", rule.depth,
                           rule.chunk, tokens, static_cast<int>(rule.forgetting), rule.clamp));
  SetFusedPolicy({.strict = true});
  const Shape rows{batch, heads, tokens, rule.head_dim}, gate{batch, heads, tokens, 1};
  const double unit = 1 / std::sqrt(static_cast<double>(rule.head_dim));
  // Without a norm nothing bounds what depth 2 writes, nor how a rounding grows.
  const double step = rule.depth > 1 && !rule.layer_norm ? 0.0025 : 0.01;
  std::vector<Values> inputs = {
      Normal(rows, "q", DType::kBF16, unit), Normal(rows, "k", DType::kBF16, unit),
      Normal(rows, "v", DType::kBF16, unit), Normal(gate, "theta", DType::kF32, 0.1 * step, step)};
  const bool alpha = rule.forgetting != Forgetting::kNever;
  if (rule.momentum) inputs.push_back(Normal(gate, "eta", DType::kF32, 0.02, 0.9));
  if (alpha) inputs.push_back(Normal(gate, "alpha", DType::kF32, 0.0005, 0.002));
  const auto weights = [&](const char* name, bool batched, double scale) {
    for (int i = 0; i < rule.depth; ++i) {
      Shape shape{heads, rule.out_dim(i), rule.in_dim(i)};
      if (batched) shape.insert(shape.begin(), batch);
      const double deviation =
          scale * (i == 0 ? 1 : 1 / std::sqrt(static_cast<double>(rule.in_dim(i))));
      inputs.push_back(Normal(shape, name, DType::kF32, deviation));
    }
    for (int i = 0; i < (rule.biases ? rule.depth : 0); ++i) {
      Shape shape{heads, 1, rule.out_dim(i)};
      if (batched) shape.insert(shape.begin(), batch);
      inputs.push_back(Normal(shape, name, DType::kF32, 0.2 * scale));
    }
  };
  weights("initial", false, 1);
  if (rule.layer_norm) {
    inputs.push_back(Normal({heads, 1, rule.head_dim}, "gain", DType::kF32, 0.1, 1));
    inputs.push_back(Normal({heads, 1, rule.head_dim}, "bias", DType::kF32, 0.1));
  }
  if (rule.row_scale) inputs.push_back(Normal({rule.chunk, 1}, "rows", DType::kF32, 0.2, 0.5));
  weights("w", true, 1);
  if (rule.momentum) weights("s", true, 0.01);
  CompareFused(
      "memory_scan",
      [&](std::span<const Var> x) {
        size_t next = 0;
        const auto take = [&] { return x[next++]; };
        MemoryTokens t{take(), take(), take(), take(), {}, {}};
        if (rule.momentum) t.eta = take();
        if (alpha) t.alpha = take();
        MemoryParameters parameters;
        ForEachVar(rule, parameters, [&](Var& v) { v = take(); });
        MemoryState state;
        ForEachVar(rule, state, [&](Var& v) { v = take(); });
        Tensor flags;
        if (!resets.empty()) {
          const int64_t chunks = (tokens + rule.chunk - 1) / rule.chunk;
          flags = Tensor::FromHost(resets, {batch, chunks}, WideType(t.q.dtype())).To(t.q.device());
        }
        MemoryScanResult result = MemoryScan(rule, parameters, t, state, flags);
        if (rule.clamp > 0) {
          EXPECT_GT(result.clamp_hits.ToDoubles()[0], 0);
        }
        std::vector<Var> outputs{result.y};
        ForEachVar(rule, result.state, [&](Var& x) { outputs.push_back(x); });
        return outputs;
      },
      inputs, 1.5e-2, 3e-2);
  SetFusedPolicy({});
}

TEST(FusedKernels, MemoryScanWithOptions) {
  for (const int64_t chunk : {64, 32, 16}) {
    SCOPED_TRACE(chunk);
    MemoryRule rule;
    rule.chunk = chunk;
    rule.forgetting = Forgetting::kTowardsInitial;
    CompareMemory(rule, 2, 2, 2 * chunk);
    rule.forgetting = Forgetting::kTowardsZero;
    rule.clamp = 15;
    CompareMemory(rule, 2, 2, 2 * chunk);
    rule.clamp = 0;
    CompareMemory(rule, 2, 2, 3 * chunk, {0, 1, 0, 1, 0, 1});
    rule.forgetting = Forgetting::kTowardsInitial;
    rule.clamp = 15;
    rule.activation = MemoryActivation::kGelu;
    CompareMemory(rule, 2, 2, 3 * chunk, {0, 0, 1, 0, 1, 0});
  }
}

TEST(FusedKernels, MemoryScanOfAnyNetworkOfDepthTwo) {
  for (const bool norm : {true, false}) {
    for (const int64_t chunk : {64, 16}) {
      SCOPED_TRACE(fmt::format("norm {}", norm));
      MemoryRule rule;
      rule.chunk = chunk;
      rule.layer_norm = norm;
      if (!norm) CompareMemory(rule, 2, 2, 2 * chunk);
      rule.row_scale = true;
      CompareMemory(rule, 2, 2, 2 * chunk);
      rule.biases = true;
      rule.forgetting = Forgetting::kTowardsInitial;
      CompareMemory(rule, 2, 2, 2 * chunk);
      rule.activation = MemoryActivation::kGelu;
      rule.clamp = 15;
      CompareMemory(rule, 2, 2, 2 * chunk + 5, {0, 0, 1, 0, 1, 0});
      rule.row_scale = false;
      rule.residual = false;
      rule.momentum = false;
      CompareMemory(rule, 2, 2, 2 * chunk);
    }
  }
}

TEST(FusedKernels, MemoryScanWithOptionsAtDepthOne) {
  for (const bool norm : {false, true}) {
    for (const int64_t chunk : {64, 16}) {
      MemoryRule rule;
      rule.depth = 1;
      rule.chunk = chunk;
      rule.layer_norm = norm;
      rule.forgetting = Forgetting::kTowardsInitial;
      CompareMemory(rule, 2, 2, 2 * chunk);
      rule.forgetting = Forgetting::kTowardsZero;
      rule.clamp = 2;
      CompareMemory(rule, 2, 2, 2 * chunk);
      rule.clamp = 0;
      CompareMemory(rule, 2, 2, 3 * chunk, {0, 1, 0, 1, 0, 1});
      rule.forgetting = Forgetting::kTowardsInitial;
      rule.clamp = 2;
      rule.residual = false;
      CompareMemory(rule, 2, 2, 3 * chunk, {0, 0, 1, 0, 1, 0});
      rule.biases = true;
      rule.row_scale = true;
      CompareMemory(rule, 2, 2, 3 * chunk, {0, 0, 1, 0, 1, 0});
      CompareMemory(rule, 1, 2, 2 * chunk + 5, {0, 0, 1});
    }
  }
  MemoryRule rule;  // TTT-Linear's
  rule.depth = 1;
  rule.chunk = 16;
  rule.biases = true;
  rule.row_scale = true;
  rule.momentum = false;
  rule.forgetting = Forgetting::kNever;
  CompareMemory(rule, 2, 2, 5 * 16);
}

// The last chunk stays open: its first state and its tokens' writes come out.
TEST(FusedKernels, MemoryScanEndsInsideAChunk) {
  for (const int depth : {2, 1}) {
    for (const int64_t chunk : {64, 16}) {
      MemoryRule rule;
      rule.depth = depth;
      rule.layer_norm = depth > 1;
      rule.chunk = chunk;
      CompareMemory(rule, 2, 2, 2 * chunk + 9);
      CompareMemory(rule, 1, 2, 7);
    }
  }
  MemoryRule rule;
  rule.forgetting = Forgetting::kTowardsInitial;
  rule.clamp = 15;
  CompareMemory(rule, 2, 2, 2 * 64 + 50, {0, 0, 1, 0, 1, 0});
}

TEST(FusedKernels, MemoryScan) {
  MemoryRule rule;
  for (const int64_t chunk : {64, 32, 16}) {
    for (const MemoryActivation activation : {MemoryActivation::kSilu, MemoryActivation::kGelu}) {
      SCOPED_TRACE(chunk);
      rule.chunk = chunk;
      rule.activation = activation;
      CompareMemory(rule, 2, 3, 2 * chunk);
    }
  }
  rule.depth = 1;
  rule.layer_norm = false;
  for (const int64_t chunk : {64, 16}) {
    rule.chunk = chunk;
    CompareMemory(rule, 1, 2, 4 * chunk);
  }
}

}  // namespace
}  // namespace mnemo
