// Kernels of layers and of the loss on a GPU.
#include <gtest/gtest.h>

#include <cmath>

#include "src/core/cuda/cuda_backend.h"
#include "src/core/fused/cross_entropy.h"
#include "src/core/fused/gates.h"
#include "src/core/fused/layers.h"
#include "src/core/fused_op.h"
#include "src/core/ops.h"
#include "src/core/random.h"
#include "tests/core/cuda/fused_compare.h"

namespace mnemo {
namespace {

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
      CompareFused(
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
      CompareFused(
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

// A weight that is a constant: its gradient is not formed (NormBackward without needs[1]).
TEST(FusedKernels, RmsNormByAConstantWeight) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const auto& [width, heads] :
         {std::pair{64, 1}, std::pair{1024, 16}, std::pair{2816, 1}, std::pair{4096, 1}}) {
      SCOPED_TRACE(fmt::format("{} {} {}", Name(dtype), width, heads));
      const Values weight = Normal({width}, "weight", DType::kF32, 0.3, 1);
      const auto run = [&](std::span<const Var> x) {
        const Tensor own = Tensor::FromHost(weight.values, {width}, DType::kF64)
                               .To(WideType(x[0].dtype()))
                               .To(x[0].device());
        return std::vector<Var>{RmsNorm(x[0], Var(own), heads, 1e-6)};
      };
      CompareFused("rms_norm", run, {Normal({2, 333, width}, "x", dtype)}, 2 * RoundingOf(dtype),
                   4 * RoundingOf(dtype));
      // What has flowed into x so far is added.
      const auto twice = [&](std::span<const Var> x) {
        return std::vector<Var>{run(x)[0], Affine(x[0], 0.5, 0)};
      };
      CompareFused("rms_norm", twice, {Normal({2, 333, width}, "x", dtype)}, 2 * RoundingOf(dtype),
                   6 * RoundingOf(dtype));
    }
  }
}

TEST(FusedKernels, SwiGlu) {
  // More vectors of 8 than the grid has threads: a second turn of its loop.
  const int64_t threads =
      int64_t{16} * 256 * static_cast<CudaDevice&>(Backend::For(kGpu)).multiprocessors();
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const Shape& shape :
         {Shape{8}, Shape{3, 1000}, Shape{2, 300, 2816}, Shape{threads / 128 + 3, 1024}}) {
      SCOPED_TRACE(ToString(shape));
      CompareFused(
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
      CompareFused(
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
          Case{40, 500, 256, 2}, Case{3, 130, 512, 0}, Case{2, 33, 264, 33},
          // Parts of 16, and of 256: a whole warp to a part.
          Case{1, 40, 64, 4}, Case{2, 77, 512, 2}, Case{3, 50, 256, 1}}) {
      SCOPED_TRACE(fmt::format("{} {} {} {}", c.batch, c.tokens, c.width, c.heads));
      CompareFused(
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
    CompareFused("gates", run, inputs, 1e-5, RoundingOf(DType::kBF16), 1e-5);
    // What has flowed into the inputs so far is added.
    const auto twice = [&](std::span<const Var> x) {
      std::vector<Var> all = run(x), more = run(x);
      all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    CompareFused("gates", twice, inputs, 1e-5, 2 * RoundingOf(DType::kBF16), 1e-5);
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
      CompareFused(
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
      CompareFused(
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

}  // namespace
}  // namespace mnemo
