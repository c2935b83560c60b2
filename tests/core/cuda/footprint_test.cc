// What operations take and keep on a GPU against the GPU that only counts (counting_backend.h),
// which plans rest on.
#include <gtest/gtest.h>

#include <cmath>

#include "src/core/backend.h"
#include "src/core/counting_backend.h"
#include "src/core/fused/attention.h"
#include "src/core/fused/cross_entropy.h"
#include "src/core/fused/gates.h"
#include "src/core/fused/layers.h"
#include "src/core/fused/memory_scan.h"
#include "src/core/fused_op.h"
#include "src/core/ops.h"
#include "tests/core/cuda/gpu_case.h"

namespace mnemo::testing {
namespace {

struct Input {
  Shape shape;
  DType dtype = DType::kBF16;
};

// Bytes above what was there before.
struct Footprint {
  int64_t forward = 0;   // at most
  int64_t kept = 0;      // outputs and what the derivative reads
  int64_t backward = 0;  // at most, above inputs, what is kept, and the outputs' gradients
};

Footprint Measure(Device device, const Function& f, std::span<const Input> inputs) {
  Backend& backend = Backend::For(device);
  Tape tape;
  std::vector<Var> leaves;
  for (const Input& input : inputs) {
    leaves.push_back(tape.Leaf(Tensor::Full(input.shape, 0.01, input.dtype, device)));
  }
  const int64_t before = backend.Memory().current_bytes;
  backend.ResetPeakMemory();
  std::vector<Var> outputs = f(leaves);
  Footprint result;
  result.forward = backend.Memory().peak_bytes - before;
  result.kept = backend.Memory().current_bytes - before;
  std::vector<Tensor> seeds;
  for (const Var& y : outputs) seeds.push_back(Tensor::Zeros(y.shape(), y.dtype(), device));
  const int64_t seeded = backend.Memory().current_bytes;
  backend.ResetPeakMemory();
  (void)tape.Gradient(outputs, seeds, leaves);
  result.backward = backend.Memory().peak_bytes - seeded;
  return result;
}

// Within 2 % and what the number of multiprocessors makes of small buffers.
void ExpectNear(int64_t counted, int64_t taken, const char* what) {
  const double slack = 0.02 * static_cast<double>(taken) + (1 << 20);
  EXPECT_NEAR(static_cast<double>(counted), static_cast<double>(taken), slack) << what;
}

void Compare(const char* op, const Function& f, const std::vector<Input>& inputs) {
  const FusedCount before = FusedCounts()[op];
  const Footprint gpu = Measure(kGpu, f, inputs);
  EXPECT_GT(FusedCounts()[op].kernel, before.kernel) << op;
  const Footprint counted = Measure(kCountingGpu, f, inputs);
  const auto mib = [](int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  fmt::print(
      "{}: forward {:.2f} MiB (counted {:.2f}), kept {:.2f} ({:.2f}), backward {:.2f} ({:.2f})\n",
      op, mib(gpu.forward), mib(counted.forward), mib(gpu.kept), mib(counted.kept),
      mib(gpu.backward), mib(counted.backward));
  ExpectNear(counted.forward, gpu.forward, "forward");
  ExpectNear(counted.kept, gpu.kept, "kept");
  ExpectNear(counted.backward, gpu.backward, "backward");
}

TEST(Footprint, RmsNorm) {
  for (const int64_t heads : {1, 16}) {
    Compare(
        "rms_norm",
        [&](std::span<const Var> x) { return std::vector<Var>{RmsNorm(x[0], x[1], heads, 1e-6)}; },
        {{{4, 4096, 1024}}, {{1024}, DType::kF32}});
  }
}

TEST(Footprint, SwiGlu) {
  Compare("swiglu", [](std::span<const Var> x) { return std::vector<Var>{SwiGlu(x[0], x[1])}; },
          {{{4, 4096, 2816}}, {{4, 4096, 2816}}});
}

TEST(Footprint, Rotate) {
  Compare("rotate",
          [](std::span<const Var> x) {
            std::vector<int64_t> positions(4096, 1);
            const RotaryTables tables =
                MakeRotaryTables(positions, 1, 64, 1e4, x[0].dtype(), x[0].device());
            return std::vector<Var>{Rotate(SplitHeads(x[0], 16), tables)};
          },
          {{{4, 4096, 1024}}});
}

TEST(Footprint, ConvSiluNorm) {
  Compare("conv_silu_norm",
          [](std::span<const Var> x) {
            return std::vector<Var>{ConvSiluNorm(x[0], x[1], x[2], 16, 1e-6)};
          },
          {{{4, 3, 1024}}, {{4, 4096, 1024}}, {{1024, 4}, DType::kF32}});
}

TEST(Footprint, Gates) {
  for (const int64_t heads : {16, 3}) {
    const Shape weight{heads, 1024}, bias{heads};
    Compare("gates",
            [](std::span<const Var> x) {
              const GateWeights gates[] = {{x[1], x[2], 0.25}, {x[3], x[4], 1}, {x[5], x[6], 0.1}};
              return HeadGates(x[0], gates);
            },
            {{{4, 4096, 1024}},
             {weight, DType::kF32},
             {bias, DType::kF32},
             {weight, DType::kF32},
             {bias, DType::kF32},
             {weight, DType::kF32},
             {bias, DType::kF32}});
  }
}

TEST(Footprint, CrossEntropy) {
  Compare("cross_entropy",
          [](std::span<const Var> x) {
            const Tensor ids = Tensor::Zeros({x[0].dim(0)}, DType::kI32, x[0].device());
            return std::vector<Var>{CrossEntropy(x[0], x[1], ids, 8192)};
          },
          {{{16384, 1024}}, {{32768, 1024}}});
}

TEST(Footprint, CrossEntropyWithGradients) {
  for (const int64_t rows : {1000, 16384}) {
    Compare("cross_entropy_gradient",
            [](std::span<const Var> x) {
              const Tensor ids = Tensor::Zeros({x[0].dim(0)}, DType::kI32, x[0].device());
              const CrossEntropyGradients all =
                  CrossEntropyWithGradients(x[0].value(), x[1].value(), ids, 8192, 1);
              return std::vector<Var>{Var(all.losses), Var(all.x), Var(all.head)};
            },
            {{{rows, 1024}}, {{32768, 1024}}});
  }
}

// Whole batches, heads by heads, and queries by queries of one head.
TEST(Footprint, AttentionOverOneRun) {
  struct Case {
    int64_t batch, heads, tokens, f, window;
  };
  for (const bool deterministic : {true, false}) {
    SetFusedPolicy({.deterministic = deterministic});
    for (const Case& c :
         {Case{2, 16, 4096, 64, 0}, Case{8, 16, 4096, 64, 0}, Case{4, 16, 4096, 64, 2048},
          Case{2, 16, 4096, 128, 0}, Case{1, 4, 16384, 64, 0}, Case{1, 2, 65536, 64, 0}}) {
      SCOPED_TRACE(fmt::format("{} {} {} {} {}", c.batch, c.heads, c.tokens, c.window,
                               deterministic ? "in order" : "in any order"));
      const Shape shape{c.batch, c.heads, c.tokens, c.f};
      Compare(
          "attention",
          [&](std::span<const Var> x) {
            return std::vector<Var>{Attention(x[0], {}, {}, {{x[1], x[2], 0}}, {0, c.window, {}})};
          },
          {{shape}, {shape}, {shape}});
    }
  }
  SetFusedPolicy({});
}

TEST(Footprint, AttentionOfSeveralParts) {
  const Shape rows{4, 16, 2048, 64}, kept{4, 16, 2047, 64}, persistent{1, 16, 16, 64};
  Compare("attention",
          [](std::span<const Var> x) {
            const std::vector<KeyRun> runs = {{x[3], x[4], 10000 - 2047}, {x[5], x[6], 10000}};
            return std::vector<Var>{Attention(x[0], x[1], x[2], runs, {10000, 2048, {}})};
          },
          {{rows}, {persistent}, {persistent}, {kept}, {kept}, {rows}, {rows}});
  Compare("attention",
          [](std::span<const Var> x) {
            const std::vector<KeyRun> runs = {{x[3], x[4], 4096}, {x[5], x[6], 4096}};
            return std::vector<Var>{Attention(x[0], x[1], x[2], runs, {4096, 0, {}})};
          },
          {{rows}, {persistent}, {persistent}, {rows}, {rows}, {rows}, {rows}});
}

TEST(Footprint, MemoryScan) {
  struct Case {
    int depth;
    int64_t chunk, batch, heads, tokens;
  };
  for (const Case& c : {Case{2, 64, 4, 16, 4096}, Case{2, 16, 4, 16, 4096},
                        Case{2, 64, 1, 4, 16384}, Case{1, 64, 4, 16, 4096}}) {
    SCOPED_TRACE(fmt::format("{} {} {} {} {}", c.depth, c.chunk, c.batch, c.heads, c.tokens));
    MemoryRule rule;
    rule.depth = c.depth;
    rule.head_dim = 64;
    rule.hidden = 256;
    rule.chunk = c.chunk;
    rule.layer_norm = rule.residual = c.depth == 2;
    const Shape rows{c.batch, c.heads, c.tokens, 64}, gate{c.batch, c.heads, c.tokens, 1};
    std::vector<Input> inputs = {{rows}, {rows}, {rows}};
    inputs.resize(6, {gate, DType::kF32});
    if (rule.layer_norm) inputs.resize(8, {{c.heads, 1, 64}, DType::kF32});
    const size_t first_weight = inputs.size();
    for (int copy = 0; copy < 2; ++copy) {
      for (int i = 0; i < c.depth; ++i) {
        inputs.push_back({{c.batch, c.heads, rule.out_dim(i), rule.in_dim(i)}, DType::kF32});
      }
    }
    Compare(
        "memory_scan",
        [&](std::span<const Var> x) {
          const MemoryTokens tokens{x[0], x[1], x[2], x[3], x[4], x[5]};
          MemoryParameters parameters;
          for (int i = 0; i < c.depth; ++i) {
            parameters.initial.w.emplace_back(Tensor::Zeros(
                {c.heads, rule.out_dim(i), rule.in_dim(i)}, DType::kF32, x[0].device()));
          }
          if (rule.layer_norm) {
            parameters.norm_weight = x[6];
            parameters.norm_bias = x[7];
          }
          MemoryState state;
          for (int i = 0; i < c.depth; ++i) {
            state.w.w.push_back(x[first_weight + i]);
            state.s.w.push_back(x[first_weight + c.depth + i]);
          }
          const MemoryScanResult result = MemoryScan(rule, parameters, tokens, state);
          std::vector<Var> outputs{result.y};
          for (const Var& w : result.state.w.w) outputs.push_back(w);
          return outputs;
        },
        inputs);
  }
}

// Products of what the library cannot read as it lies, and of many batches.
TEST(Footprint, Products) {
  const auto expect = [](const Function& f, const std::vector<Input>& inputs) {
    const Footprint gpu = Measure(kGpu, f, inputs), counted = Measure(kCountingGpu, f, inputs);
    ExpectNear(counted.forward, gpu.forward, "forward");
    ExpectNear(counted.backward, gpu.backward, "backward");
  };
  expect([](std::span<const Var> x) { return std::vector<Var>{MatMul(x[0], Transpose(x[1]))}; },
         {{{4, 4096, 1024}}, {{2816, 1024}}});
  expect(
      [](std::span<const Var> x) {  // every other column
        const Var a = Reshape(x[0], {4096, 1024, 2});
        return std::vector<Var>{MatMul(Reshape(Slice(a, 2, 0, 1), {4096, 1024}), x[1])};
      },
      {{{4096, 2048}}, {{1024, 512}}});
  expect(
      [](std::span<const Var> x) {
        return std::vector<Var>{MatMul(Permute(x[0], {1, 0, 2, 3}), x[1])};
      },
      {{{64, 64, 64, 64}}, {{64, 64, 64, 64}}});
  expect(
      [](std::span<const Var> x) {
        const Tensor ids = Tensor::Zeros({16384}, DType::kI32, x[0].device());
        return std::vector<Var>{GatherRows(x[0], ids)};
      },
      {{{32768, 1024}}});
}

}  // namespace
}  // namespace mnemo::testing
