// Kernels around the products of fused ops, without the products: compute-sanitizer's racecheck
// ends with an internal error in cuBLAS's kernels (launch/gpu_check.sh).
#include <gtest/gtest.h>

#include <cmath>

#include "src/core/cuda/attention_merge.h"
#include "src/core/cuda/cross_entropy.h"
#include "src/core/cuda/cuda_backend.h"
#include "src/core/cuda/gate_kernels.h"
#include "tests/core/cuda/gpu_case.h"

namespace mnemo::testing {
namespace {

CudaDevice& Gpu() { return static_cast<CudaDevice&>(Backend::For(kGpu)); }

Tensor OnGpu(const std::vector<double>& values, const Shape& shape) {
  return Tensor::FromHost(values, shape, DType::kF64).To(DType::kF32).To(kGpu);
}
Tensor Unwritten(const Shape& shape, DType dtype = DType::kF32) {
  return Tensor::Full(shape, NAN, dtype, kGpu);
}

// Values that f32 and bf16 hold, up to 4.
std::vector<double> Values(int64_t count) {
  std::vector<double> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<double>(i * 37 % 65 - 32) / 8;
  return values;
}

// Some rows' targets, one of them masked.
std::vector<int32_t> Targets(int64_t rows, int64_t columns) {
  std::vector<int32_t> targets(rows);
  for (int64_t i = 0; i < rows; ++i) targets[i] = static_cast<int32_t>(i * 7919 % columns);
  targets[1] = -1;
  return targets;
}

double LogSumOf(const double* row, int64_t columns) {
  double sum = 0;
  for (int64_t i = 0; i < columns; ++i) sum += std::exp(row[i]);
  return std::log(sum);
}

// exp and the sums of columns in f32, each rounding of 2^-24 of what is at most 16.
constexpr double kTolerance = 64 * 0x1p-24 * 16;

TEST(BareKernels, LogSumsTileByTile) {
  constexpr int64_t kRows = 5, kColumns = 700, kTile = 300;
  const std::vector<double> logits = Values(kRows * kColumns);
  const std::vector<int32_t> targets = Targets(kRows, kColumns);
  const Tensor all = OnGpu(logits, {kRows, kColumns});
  const Tensor ids = Tensor::FromHost(std::span<const int32_t>(targets), {kRows}).To(kGpu);
  const Tensor maxima = Unwritten({kRows}), sums = Unwritten({kRows});
  const Tensor picked = Unwritten({kRows}), log_sums = Unwritten({kRows});
  for (int64_t first = 0; first < kColumns; first += kTile) {
    const int64_t end = std::min(kColumns, first + kTile);
    const Tensor tile = all.Slice(1, first, end).Clone();
    CudaScratch scratch(Gpu());
    cuda::UpdateLogSums(
        scratch.launch(),
        {tile.data<float>(), kRows, end - first, first, first == 0, end == kColumns},
        {ids.data<int32_t>(), maxima.data<float>(), sums.data<float>(), picked.data<float>(),
         log_sums.data<float>()});
  }
  const std::vector<double> got = log_sums.ToDoubles(), got_picked = picked.ToDoubles();
  for (int64_t row = 0; row < kRows; ++row) {
    const double* own = &logits[row * kColumns];
    EXPECT_NEAR(got[row], LogSumOf(own, kColumns), kTolerance) << row;
    EXPECT_EQ(got_picked[row], targets[row] < 0 ? 0 : own[targets[row]]) << row;
  }
}

// Rows that registers hold, longer ones, and a number of columns that no vector divides.
TEST(BareKernels, LossAndGradient) {
  constexpr int64_t kRows = 3;
  constexpr double kScale = 0.5;
  for (const int64_t columns : {1000, 40'000, 1001}) {
    SCOPED_TRACE(columns);
    const std::vector<double> logits = Values(kRows * columns);
    const std::vector<int32_t> targets = Targets(kRows, columns);
    const Tensor all = OnGpu(logits, {kRows, columns});
    const Tensor ids = Tensor::FromHost(std::span<const int32_t>(targets), {kRows}).To(kGpu);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensor losses = Unwritten({kRows}), gradient = Unwritten({kRows, columns}, dtype);
      CudaScratch scratch(Gpu());
      cuda::LossAndGradient(scratch.launch(), {all.data<float>(), kRows, columns},
                            {ids.data<int32_t>(), static_cast<float>(kScale), losses.data<float>(),
                             dtype, gradient.raw()});
      const std::vector<double> got = losses.ToDoubles(), slopes = gradient.ToDoubles();
      const double relative = dtype == DType::kBF16 ? 0x1p-8 : 0;
      for (int64_t row = 0; row < kRows; ++row) {
        const double* own = &logits[row * columns];
        const bool masked = targets[row] < 0;
        const double log_sum = LogSumOf(own, columns);
        EXPECT_NEAR(got[row], masked ? 0 : log_sum - own[targets[row]], kTolerance) << row;
        for (int64_t i = 0; i < columns; ++i) {
          double want = masked ? 0 : kScale * std::exp(own[i] - log_sum);
          if (i == targets[row]) want -= kScale;
          ASSERT_NEAR(slopes[row * columns + i], want, kTolerance + relative * std::abs(want))
              << row << " " << i;
        }
      }
    }
  }
}

// Parts of attention merged into the first one's memory, as many as there can be, fewer, and more
// vectors than the grid has threads (a second turn of its loop).
TEST(BareKernels, MergesPartsOfAttention) {
  struct Case {
    int64_t batch, tokens, heads, head_dim;
    int parts;
  };
  const int64_t threads = int64_t{16} * 256 * Gpu().multiprocessors();
  for (const Case& c :
       {Case{2, 5, 3, 8, 2}, Case{1, 7, 2, 40, 3}, Case{3, 9, 2, 128, cuda::kMaxAttentionParts},
        Case{1, threads / 16 + 100, 1, 128, 2}}) {
    SCOPED_TRACE(fmt::format("{} {} {} {} {}", c.batch, c.tokens, c.heads, c.head_dim, c.parts));
    const int64_t rows = c.batch * c.tokens * c.heads;
    cuda::MergeCall call{};
    call.count = c.parts;
    call.batch = c.batch, call.tokens = c.tokens, call.heads = c.heads, call.head_dim = c.head_dim;
    std::vector<std::vector<double>> outputs, stats;
    std::vector<Tensor> on_gpu;
    for (int p = 0; p < c.parts; ++p) {
      std::vector<double> own = Values(rows * c.head_dim + p), sums = Values(rows + 3 * p);
      own.erase(own.begin(), own.begin() + p);
      sums.erase(sums.begin(), sums.begin() + 3 * p);
      outputs.push_back(own);
      stats.push_back(sums);
      on_gpu.push_back(OnGpu(own, {rows, c.head_dim}).To(DType::kBF16));
      call.outputs[p] = on_gpu.back().raw();
      on_gpu.push_back(OnGpu(sums, {rows}));
      call.stats[p] = on_gpu.back().data<float>();
    }
    const Tensor merged_stats = Unwritten({rows});
    call.merged = on_gpu[0].raw();
    call.merged_stats = merged_stats.data<float>();
    CudaScratch scratch(Gpu());
    cuda::MergeAttention(scratch.launch(), call);

    const std::vector<double> got = on_gpu[0].ToDoubles(), got_stats = merged_stats.ToDoubles();
    int64_t wrong = 0;
    for (int64_t row = 0; row < rows; ++row) {  // [batch, tokens, heads]; stats have heads first
      const int64_t h = row % c.heads, t = row / c.heads % c.tokens, b = row / c.heads / c.tokens;
      const int64_t stat = (b * c.heads + h) * c.tokens + t;
      double sum = 0;
      for (int p = 0; p < c.parts; ++p) sum += std::exp(stats[p][stat]);
      if (!(std::abs(got_stats[stat] - std::log(sum)) <= 16 * 0x1p-24 * 4)) ++wrong;
      for (int64_t f = 0; f < c.head_dim; ++f) {
        double want = 0, size = 0;
        for (int p = 0; p < c.parts; ++p) {
          const double term = std::exp(stats[p][stat]) / sum * outputs[p][row * c.head_dim + f];
          want += term;
          size += std::abs(term);
        }
        const double off = std::abs(got[row * c.head_dim + f] - want);
        if (!(off <= 0x1p-8 * std::abs(want) + 64 * 0x1p-24 * size)) ++wrong;
      }
    }
    EXPECT_EQ(wrong, 0) << "of " << rows * (c.head_dim + 1);
  }
}

// z' = g' g (1 - g / maximum), in two halves of bf16, and its sums over kGateRows rows.
TEST(BareKernels, GateGradients) {
  constexpr cuda::GateShape kShape{.gates = 2, .batch = 1, .tokens = 300, .width = 8, .heads = 3};
  constexpr double kMaximum = 0.75;
  const int64_t columns = kShape.columns(), rows = kShape.rows();
  std::vector<std::vector<double>> gates, slopes;
  std::vector<Tensor> on_gpu;
  cuda::GateGradientsCall call{};
  for (int i = 0; i < kShape.gates; ++i) {
    slopes.push_back(Values(kShape.heads * rows));
    gates.push_back(slopes.back());
    for (double& x : gates.back()) x = (x + 4.5 + i) / 16;
    for (const std::vector<double>* values : {&gates.back(), &slopes.back()}) {
      on_gpu.push_back(OnGpu(*values, {kShape.heads, rows}));
    }
    call.gates[i] = on_gpu[2 * i].data<float>();
    call.gradients[i] = on_gpu[2 * i + 1].data<float>();
    call.maxima[i] = static_cast<float>(kMaximum);
  }
  const Tensor out = Unwritten({rows, 3 * columns}, DType::kBF16);
  const Tensor shares = Unwritten({kShape.shares(), columns});
  call.out = out.raw(), call.shares = shares.data<float>();
  CudaScratch scratch(Gpu());
  cuda::GateGradients(scratch.launch(), kShape, call);

  const std::vector<double> z = out.ToDoubles(), sums = shares.ToDoubles();
  for (int64_t column = 0; column < columns; ++column) {
    const int64_t gate = column / kShape.heads, head = column % kShape.heads;
    std::vector<double> want(kShape.shares(), 0.0);
    for (int64_t row = 0; row < rows; ++row) {
      double exact = 0;
      if (gate < kShape.gates) {
        const double g = gates[gate][head * rows + row];
        exact = slopes[gate][head * rows + row] * g * (1 - g / kMaximum);
      }
      want[row / cuda::kGateRows] += exact;
      const double upper = z[row * 3 * columns + column];
      EXPECT_EQ(z[(row * 3 + 1) * columns + column], upper);
      EXPECT_NEAR(upper + z[(row * 3 + 2) * columns + column], exact,
                  (0x1p-16 + 0x1p-22) * std::abs(exact));
    }
    for (int64_t share = 0; share < kShape.shares(); ++share) {
      EXPECT_NEAR(sums[share * columns + column], want[share],
                  cuda::kGateRows * 0x1p-24 * cuda::kGateRows);
    }
  }
}

}  // namespace
}  // namespace mnemo::testing
