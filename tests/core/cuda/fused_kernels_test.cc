// The kernels of fused ops on a GPU against their composed definitions in f64 on the CPU, values
// and gradients. Inputs are rounded to what the kernel reads first.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "src/core/backend.h"
#include "src/core/fused/attention.h"
#include "src/core/fused/cross_entropy.h"
#include "src/core/fused/gates.h"
#include "src/core/fused/layers.h"
#include "src/core/fused/memory_scan.h"
#include "src/core/fused_op.h"
#include "src/core/ops.h"
#include "src/core/random.h"

namespace mnemo {
namespace {

constexpr Device kGpu{DeviceType::kCuda, 0};

// An input, or the seed of an output's gradient.
struct Values {
  Shape shape;
  DType dtype = DType::kBF16;  // on the GPU
  std::vector<double> values;  // representable in it
};

Values Normal(const Shape& shape, const char* name, DType dtype = DType::kBF16, double scale = 1,
              double shift = 0) {
  const RandomStream random(7, 0, name);
  std::vector<double> values(ElementCount(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = shift + scale * random.Normal(i);
  // Through the dtype and back.
  return {shape, dtype, Tensor::FromHost(values, shape, dtype).To(DType::kF64).ToDoubles()};
}

using Function = std::function<std::vector<Var>(std::span<const Var>)>;

struct Run {
  std::vector<std::vector<double>> outputs, gradients;
};

// Gradients of sum <output, seed>; seeds are a pure function of the output's shape.
Run RunOn(const Function& f, std::span<const Values> inputs, bool gpu) {
  Tape tape;
  std::vector<Var> leaves;
  for (const Values& x : inputs) {
    const Tensor wide = Tensor::FromHost(x.values, x.shape, DType::kF64);
    leaves.push_back(tape.Leaf(gpu ? wide.To(x.dtype).To(kGpu) : wide));
  }
  const std::vector<Var> outputs = f(leaves);
  std::vector<Tensor> seeds;
  Run run;
  for (const Var& y : outputs) {
    const Values seed = Normal(y.shape(), "seed", DType::kBF16);
    Tensor tensor = Tensor::FromHost(seed.values, y.shape(), DType::kF64);
    seeds.push_back(gpu ? tensor.To(y.dtype()).To(kGpu) : tensor);
    run.outputs.push_back(y.value().ToDoubles());
  }
  for (const Tensor& gradient : tape.Gradient(outputs, seeds, leaves)) {
    run.gradients.push_back(gradient.defined() ? gradient.ToDoubles() : std::vector<double>());
  }
  return run;
}

double RelativeError(const std::vector<double>& got, const std::vector<double>& want) {
  EXPECT_EQ(got.size(), want.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(error / std::max(norm, 1e-30));
}

// Runs f on both, checks that `op` was computed by its kernel, and that each output and gradient is
// within the tolerances, in relative L2 norm; gradients of f32 inputs within one of their own, if
// there is one.
void Compare(const char* op, const Function& f, const std::vector<Values>& inputs, double tolerance,
             double gradient_tolerance, double f32_gradient_tolerance = 0) {
  const FusedCount before = FusedCounts()[op];
  const Run gpu = RunOn(f, inputs, true);
  const FusedCount after = FusedCounts()[op];
  EXPECT_GT(after.kernel, before.kernel) << op << " was not computed by its kernel";
  EXPECT_EQ(after.fallback, before.fallback);
  const Run cpu = RunOn(f, inputs, false);
  for (size_t i = 0; i < cpu.outputs.size(); ++i) {
    const double error = RelativeError(gpu.outputs[i], cpu.outputs[i]);
    EXPECT_LE(error, tolerance) << op << " output " << i;
  }
  for (size_t i = 0; i < cpu.gradients.size(); ++i) {
    if (cpu.gradients[i].empty()) continue;
    const double error = RelativeError(gpu.gradients[i], cpu.gradients[i]);
    const bool own = f32_gradient_tolerance > 0 && inputs[i].dtype == DType::kF32;
    EXPECT_LE(error, own ? f32_gradient_tolerance : gradient_tolerance)
        << op << " gradient of input " << i;
  }
  // Once more: the same bits.
  const Run again = RunOn(f, inputs, true);
  EXPECT_EQ(again.outputs, gpu.outputs) << op;
  EXPECT_EQ(again.gradients, gpu.gradients) << op;
}

// One rounding to the output's type, and a few in f32 before it.
double RoundingOf(DType dtype) { return dtype == DType::kBF16 ? std::ldexp(1.0, -9) : 2e-6; }

TEST(FusedKernels, RmsNorm) {
  struct Case {
    Shape shape;
    int64_t heads;
  };
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const Case& c :
         {Case{{1, 8}, 1}, Case{{3, 64}, 1}, Case{{2, 100, 1024}, 1}, Case{{2, 5000, 768}, 1},
          Case{{3, 2048}, 1}, Case{{700, 4096}, 1}, Case{{2, 333, 1024}, 16}, Case{{5, 96}, 3},
          Case{{40000, 64}, 1}, Case{{70, 1536}, 2}, Case{{2, 50, 768}, 12}, Case{{5000, 40}, 1},
          Case{{50, 1536}, 24}, Case{{900, 2048}, 32}, Case{{333, 2816}, 1}, Case{{70, 1032}, 1},
          Case{{2000, 256}, 1}}) {
      SCOPED_TRACE(ToString(c.shape));
      Compare(
          "rms_norm",
          [&](std::span<const Var> x) {
            return std::vector<Var>{RmsNorm(x[0], x[1], c.heads, 1e-6)};
          },
          {Normal(c.shape, "x", dtype), Normal({c.shape.back()}, "weight", DType::kF32, 0.3, 1)},
          2 * RoundingOf(dtype), 4 * RoundingOf(dtype));
    }
  }
}

// Its backward pass adds to what has flowed into x, and into the weight, so far.
TEST(FusedKernels, RmsNormAddsToGradients) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const int64_t width : {64, 1024, 2816}) {
      SCOPED_TRACE(fmt::format("{} {}", Name(dtype), width));
      Compare(
          "rms_norm",
          [&](std::span<const Var> x) {
            return std::vector<Var>{RmsNorm(x[0], x[1], 1, 1e-6),
                                    RmsNorm(Affine(x[0], 1.5, 0), x[1], 1, 1e-6),
                                    Affine(x[0], 0.5, 0)};
          },
          {Normal({2, 50, width}, "x", dtype), Normal({width}, "weight", DType::kF32, 0.3, 1)},
          2 * RoundingOf(dtype), 6 * RoundingOf(dtype));
    }
  }
}

TEST(FusedKernels, SwiGlu) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const Shape& shape : {Shape{8}, Shape{3, 1000}, Shape{2, 300, 2816}}) {
      SCOPED_TRACE(ToString(shape));
      Compare(
          "swiglu", [](std::span<const Var> x) { return std::vector<Var>{SwiGlu(x[0], x[1])}; },
          {Normal(shape, "a", dtype, 2), Normal(shape, "b", dtype)}, 2 * RoundingOf(dtype),
          2 * RoundingOf(dtype));
    }
  }
}

TEST(FusedKernels, Rotate) {
  struct Case {
    int64_t batch, heads, tokens, f;
    bool own_positions;  // each sequence its own
  };
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const Case& c : {Case{1, 1, 1, 16, false}, Case{2, 3, 100, 64, false},
                          Case{3, 2, 77, 128, true}, Case{2, 16, 500, 64, true}}) {
      SCOPED_TRACE(fmt::format("{} {} {} {}", c.batch, c.heads, c.tokens, c.f));
      const int64_t copies = c.own_positions ? c.batch : 1;
      std::vector<int64_t> positions(copies * c.tokens);
      for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int64_t>(3 * i + 5);
      // As projections leave it: heads of a token side by side.
      Compare(
          "rotate",
          [&](std::span<const Var> x) {
            const RotaryTables tables =
                MakeRotaryTables(positions, copies, c.f, 1e4, x[0].dtype(), x[0].device());
            return std::vector<Var>{Rotate(SplitHeads(x[0], c.heads), tables)};
          },
          {Normal({c.batch, c.tokens, c.heads * c.f}, "x", dtype)}, 2 * RoundingOf(dtype),
          2 * RoundingOf(dtype));
    }
  }
}

TEST(FusedKernels, ConvSiluNorm) {
  struct Case {
    int64_t batch, tokens, width, heads;
  };
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const Case& c :
         {Case{1, 1, 64, 1}, Case{2, 2, 64, 2}, Case{1, 5, 128, 0}, Case{3, 16, 64, 1},
          Case{2, 17, 96, 3}, Case{2, 300, 1024, 16}, Case{4, 4096, 256, 4}, Case{1, 1000, 768, 12},
          Case{40, 500, 256, 2}, Case{3, 130, 512, 0}, Case{2, 33, 264, 33}}) {
      SCOPED_TRACE(fmt::format("{} {} {} {}", c.batch, c.tokens, c.width, c.heads));
      Compare(
          "conv_silu_norm",
          [&](std::span<const Var> x) {
            return std::vector<Var>{ConvSiluNorm(x[0], x[1], x[2], c.heads, 1e-6)};
          },
          {Normal({c.batch, 3, c.width}, "before", dtype),
           Normal({c.batch, c.tokens, c.width}, "x", dtype),
           Normal({c.width, 4}, "weight", DType::kF32, 0.5)},
          2 * RoundingOf(dtype), 4 * RoundingOf(dtype));
    }
  }
}

// Tolerances beside f64: weights and gradients in two bf16 numbers, 2^-17 each, sums of f32.
TEST(FusedKernels, Gates) {
  struct Case {
    int64_t batch, tokens, width, heads;
    int gates;
  };
  for (const Case& c : {Case{2, 300, 1024, 16, 3}, Case{1, 64, 128, 3, 2}, Case{3, 77, 64, 1, 1},
                        Case{2, 129, 2048, 32, 4}}) {
    SCOPED_TRACE(fmt::format("{} {} {} {} {}", c.batch, c.tokens, c.width, c.heads, c.gates));
    std::vector<Values> inputs = {Normal({c.batch, c.tokens, c.width}, "x")};
    const double scale = 1 / std::sqrt(static_cast<double>(c.width));
    for (int i = 0; i < c.gates; ++i) {
      inputs.push_back(
          Normal({c.heads, c.width}, fmt::format("w{}", i).c_str(), DType::kF32, scale));
      inputs.push_back(Normal({c.heads}, fmt::format("b{}", i).c_str(), DType::kF32));
    }
    const auto run = [&](std::span<const Var> x) {
      std::vector<GateWeights> gates;
      for (int i = 0; i < c.gates; ++i)
        gates.push_back({x[1 + 2 * i], x[2 + 2 * i], 1.0 / (1 + i)});
      return HeadGates(x[0], gates);
    };
    Compare("gates", run, inputs, 1e-5, RoundingOf(DType::kBF16), 1e-5);
    // What has flowed into the inputs so far is added.
    const auto twice = [&](std::span<const Var> x) {
      std::vector<Var> all = run(x), more = run(x);
      all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    Compare("gates", twice, inputs, 1e-5, 2 * RoundingOf(DType::kBF16), 1e-5);
  }
}

TEST(FusedKernels, CrossEntropy) {
  struct Case {
    int64_t rows, width, vocabulary, tile;
  };
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const Case& c :
         {Case{1, 64, 256, 8192}, Case{100, 64, 1000, 8192}, Case{300, 128, 10000, 8192},
          Case{2500, 64, 5000, 512}, Case{64, 1024, 32768, 8192}}) {
      SCOPED_TRACE(fmt::format("{} {} {} {}", c.rows, c.width, c.vocabulary, c.tile));
      std::vector<int32_t> targets(c.rows);
      const RandomStream random(3, 0, "targets");
      for (int64_t i = 0; i < c.rows; ++i) {
        targets[i] = i % 7 == 3 ? -1 : static_cast<int32_t>(random.Below(i, c.vocabulary));
      }
      // Gradients of logits are rounded to bf16 before they are multiplied.
      Compare(
          "cross_entropy",
          [&](std::span<const Var> x) {
            const Tensor ids = Tensor::FromHost(targets, {c.rows}).To(x[0].device());
            return std::vector<Var>{CrossEntropy(x[0], x[1], ids, c.tile)};
          },
          {Normal({c.rows, c.width}, "x", dtype),
           Normal({c.vocabulary, c.width}, "head", dtype, 0.1)},
          1e-5, 4 * RoundingOf(dtype));
    }
  }
}

// Vocabularies that are and are not a multiple of what a thread reads at a time; pieces of rows
// that fill the buffer, and several of them.
TEST(FusedKernels, CrossEntropyGradient) {
  struct Case {
    int64_t rows, width, vocabulary;
  };
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const Case& c :
         {Case{1, 64, 256}, Case{100, 64, 1000}, Case{300, 128, 10001}, Case{2500, 64, 5000},
          Case{70, 64, 32776}, Case{300, 16, 1 << 20}, Case{64, 1024, 32768}}) {
      SCOPED_TRACE(fmt::format("{} {} {}", c.rows, c.width, c.vocabulary));
      std::vector<int32_t> targets(c.rows);
      const RandomStream random(3, 0, "targets");
      for (int64_t i = 0; i < c.rows; ++i) {
        targets[i] = i % 7 == 3 ? -1 : static_cast<int32_t>(random.Below(i, c.vocabulary));
      }
      Compare(
          "cross_entropy_gradient",
          [&](std::span<const Var> x) {
            const Tensor ids = Tensor::FromHost(targets, {c.rows}).To(x[0].device());
            const CrossEntropyGradients all =
                CrossEntropyWithGradients(x[0].value(), x[1].value(), ids, 8192, 0.5);
            return std::vector<Var>{Var(all.losses), Var(all.x), Var(all.head)};
          },
          {Normal({c.rows, c.width}, "x", dtype),
           Normal({c.vocabulary, c.width}, "head", dtype, 0.1)},
          4 * RoundingOf(dtype), 0);
    }
  }
}

// bf16 probabilities inside, and outputs: a few roundings.
void CompareAttention(const Function& f, const std::vector<Values>& inputs) {
  Compare("attention", f, inputs, 6e-3, 1.2e-2);
}

TEST(FusedKernels, AttentionOverOneRun) {
  struct Case {
    int64_t batch, heads, queries, keys, f, window;
  };
  for (const Case& c : {Case{2, 3, 128, 128, 64, 0}, Case{1, 2, 300, 300, 64, 0},
                        Case{2, 2, 256, 256, 128, 0}, Case{2, 2, 512, 512, 64, 100},
                        Case{1, 2, 128, 255, 64, 128}, Case{1, 2, 192, 1000, 64, 300},
                        Case{1, 1, 64, 64, 32, 0}, Case{2, 4, 1024, 3071, 64, 2048}}) {
    SCOPED_TRACE(
        fmt::format("{} {} {} {} {} {}", c.batch, c.heads, c.queries, c.keys, c.f, c.window));
    CompareAttention(
        [&](std::span<const Var> x) {
          const std::vector<KeyRun> runs = {{x[1], x[2], 0}};
          return std::vector<Var>{
              Attention(x[0], {}, {}, runs, {c.keys - c.queries, c.window, {}})};
        },
        {Normal({c.batch, c.heads, c.queries, c.f}, "q"),
         Normal({c.batch, c.heads, c.keys, c.f}, "k"),
         Normal({c.batch, c.heads, c.keys, c.f}, "v")});
  }
}

TEST(FusedKernels, AttentionOverAWindowBeforeTheSliceAndPersistentKeys) {
  constexpr int64_t kKept = 127, kRows = 256, kHeads = 2, kBatch = 2, f = 64;
  CompareAttention(
      [&](std::span<const Var> x) {
        const std::vector<KeyRun> runs = {{x[3], x[4], 1000 - kKept}, {x[5], x[6], 1000}};
        return std::vector<Var>{Attention(x[0], x[1], x[2], runs, {1000, 128, {}})};
      },
      {Normal({kBatch, kHeads, kRows, f}, "q"), Normal({1, kHeads, 16, f}, "pk"),
       Normal({1, kHeads, 16, f}, "pv"), Normal({kBatch, kHeads, kKept, f}, "bk"),
       Normal({kBatch, kHeads, kKept, f}, "bv"), Normal({kBatch, kHeads, kRows, f}, "k"),
       Normal({kBatch, kHeads, kRows, f}, "v")});
}

// MAC: persistent keys, recalled h and the segment itself, at the same positions.
TEST(FusedKernels, AttentionOfASegment) {
  constexpr int64_t kRows = 256, kHeads = 2, kBatch = 3, f = 64;
  CompareAttention(
      [&](std::span<const Var> x) {
        const std::vector<KeyRun> runs = {{x[3], x[4], 512}, {x[5], x[6], 512}};
        return std::vector<Var>{Attention(x[0], x[1], x[2], runs, {512, 0, {}})};
      },
      {Normal({kBatch, kHeads, kRows, f}, "q"), Normal({1, kHeads, 8, f}, "pk"),
       Normal({1, kHeads, 8, f}, "pv"), Normal({kBatch, kHeads, kRows, f}, "hk"),
       Normal({kBatch, kHeads, kRows, f}, "hv"), Normal({kBatch, kHeads, kRows, f}, "k"),
       Normal({kBatch, kHeads, kRows, f}, "v")});
}

// `resets`: flags of the chunks [batch, chunks], or empty.
void CompareMemory(const MemoryRule& rule, int64_t batch, int64_t heads, int64_t tokens,
                   const std::vector<double>& resets = {}) {
  SCOPED_TRACE(fmt::format("depth {} chunk {} tokens {} forgetting {} clamp {}", rule.depth,
                           rule.chunk, tokens, static_cast<int>(rule.forgetting), rule.clamp));
  SetFusedPolicy({.strict = true});
  const Shape rows{batch, heads, tokens, rule.head_dim}, gate{batch, heads, tokens, 1};
  const double unit = 1 / std::sqrt(static_cast<double>(rule.head_dim));
  std::vector<Values> inputs = {
      Normal(rows, "q", DType::kBF16, unit), Normal(rows, "k", DType::kBF16, unit),
      Normal(rows, "v", DType::kBF16, unit), Normal(gate, "theta", DType::kF32, 0.001, 0.01)};
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
  Compare(
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

TEST(FusedKernels, MemoryScanWithOptionsAtDepthOne) {
  for (const bool norm : {false, true}) {
    for (const int64_t chunk : {64, 16}) {
      MemoryRule rule;
      rule.depth = 1;
      rule.chunk = chunk;
      rule.layer_norm = norm;  // which composes what forgets
      const Forgetting zero = norm ? Forgetting::kNever : Forgetting::kTowardsZero;
      const Forgetting initial = norm ? Forgetting::kNever : Forgetting::kTowardsInitial;
      rule.forgetting = initial;
      CompareMemory(rule, 2, 2, 2 * chunk);
      rule.forgetting = zero;
      rule.clamp = 2;
      CompareMemory(rule, 2, 2, 2 * chunk);
      rule.clamp = 0;
      CompareMemory(rule, 2, 2, 3 * chunk, {0, 1, 0, 1, 0, 1});
      rule.forgetting = initial;
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
