// Matrix products on a GPU: every layout of every operand, batches, odd and extreme sizes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "tests/core/cuda/gpu_case.h"

namespace mnemo::testing {
namespace {

// How a matrix lies in memory.
enum class Lay { kRows, kColumns, kOdd, kApart, kOneForAll };

// x with its last two dims laid out so; kOdd begins off any alignment and its rows are an odd
// distance apart, kApart has no unit stride, kOneForAll repeats its first matrix over the batch.
Tensor LayOut(const Tensor& x, Lay lay) {
  const int rank = x.rank();
  switch (lay) {
    case Lay::kRows:
      return x.Contiguous();
    case Lay::kColumns:
      return x.Transpose().Contiguous().Transpose();
    case Lay::kOneForAll: {
      Tensor one = x;
      for (int axis = 0; axis < rank - 2; ++axis) one = one.Slice(axis, 0, 1);
      return one.Contiguous().BroadcastTo(x.shape());
    }
    default:
      break;
  }
  const bool apart = lay == Lay::kApart;
  Shape shape = x.shape();
  shape[rank - 2] = shape[rank - 2] * (apart ? 2 : 1);
  shape[rank - 1] = apart ? 2 * shape[rank - 1] : shape[rank - 1] + 3;
  const Tensor larger = Tensor::Full(shape, NAN, x.dtype(), x.device());
  Tensor view = larger;
  if (apart) {  // every other element, as a view of pairs
    Shape pairs(x.shape().begin(), x.shape().end() - 2);
    for (const int64_t size : {x.dim(-2), int64_t{2}, x.dim(-1), int64_t{2}}) pairs.push_back(size);
    view = larger.View(pairs).Slice(rank - 1, 0, 1).Slice(rank + 1, 0, 1);
    std::vector<int> order;
    for (int axis = 0; axis < rank - 2; ++axis) order.push_back(axis);
    for (const int axis : {rank - 1, rank + 1, rank - 2, rank}) order.push_back(axis);
    view = view.Permute(order);
    for (int i = 0; i < 2; ++i) {  // drops the two dims of 1
      Shape rest(view.shape().begin(), view.shape().end());
      rest.erase(rest.begin() + rank - 2);
      view = view.View(rest);
    }
  } else {
    view = larger.Slice(rank - 1, 1, 1 + x.dim(-1));
  }
  Backend::For(x.device()).Copy(x, view);
  return view;
}

struct Sizes {
  Shape batch;
  int64_t m, n, k;
};

struct Types {
  DType in, out;
};
constexpr Types kTypes[] = {{DType::kF32, DType::kF32},
                            {DType::kF64, DType::kF64},
                            {DType::kBF16, DType::kBF16},
                            {DType::kBF16, DType::kF32}};

Shape Matrix(const Sizes& s, int64_t rows, int64_t columns) {
  Shape shape = s.batch;
  shape.push_back(rows);
  shape.push_back(columns);
  return shape;
}

struct Lays {
  Lay a = Lay::kRows, b = Lay::kRows, out = Lay::kRows;
};

// alpha a b + beta c on the GPU, laid out so, against f64 on the CPU; twice, for equal bits. c is
// out itself, or a tensor `apart` that lies as out or, with false, densely.
void CheckProduct(const Sizes& s, const Lays& lays, double beta, const Types& types,
                  std::optional<bool> apart = std::nullopt) {
  SCOPED_TRACE(fmt::format("{} of [{}, {}] x [{}], {} -> {}, layouts {} {} {}, beta {}",
                           ToString(s.batch), s.m, s.k, s.n, Name(types.in), Name(types.out),
                           static_cast<int>(lays.a), static_cast<int>(lays.b),
                           static_cast<int>(lays.out), beta));
  constexpr double kAlpha = 0.75;
  const Tensor a = Uniform(Matrix(s, s.m, s.k), 1).To(types.in);
  const Tensor b = Uniform(Matrix(s, s.k, s.n), 2).To(types.in);
  const Tensor start = Uniform(Matrix(s, s.m, s.n), 3).To(types.out);
  const auto run = [&](Device device, DType in, DType out_type) {
    const Tensor left = LayOut(a.To(in).To(device), lays.a);
    const Tensor right = LayOut(b.To(in).To(device), lays.b);
    const Tensor first =
        beta == 0 ? Tensor::Full(start.shape(), NAN, out_type) : start.Clone().To(out_type);
    const Tensor out = LayOut(first.To(device), lays.out);
    if (device == kGpu) PoisonFreeMemory();
    if (!apart) {
      Backend::For(device).Gemm(left, right, kAlpha, beta, out);
      return out;
    }
    const Tensor c = *apart ? out : first.To(device);
    const Tensor result = LayOut(Tensor::Full(start.shape(), NAN, out_type).To(device), lays.out);
    Backend::For(device).Gemm(left, right, kAlpha, beta, c, result);
    EXPECT_EQ(c.ToDoubles(), first.ToDoubles());
    return result;
  };
  const Tensor got = run(kGpu, types.in, types.out), want = run({}, DType::kF64, DType::kF64);
  // Sums of k products of values in [-1, 1), 1/4 each in the mean.
  const auto k = static_cast<double>(s.k);
  const DType computed = types.in == DType::kF64 ? DType::kF64 : DType::kF32;
  const double scale = 1 + k / 4;
  const double unit = types.out == DType::kBF16 ? 1.001 * UnitRoundoff(DType::kBF16) : 0;
  // A product, within six standard deviations, may be rounded before c is added.
  const double rounded = beta == 0 ? 0 : unit * 2 * std::sqrt(k) * kAlpha / scale;
  ExpectClose(got, want,
              {.relative = unit,
               .absolute = (8 + 2 * std::sqrt(k)) * UnitRoundoff(computed) + rounded,
               .scale = scale},
              "product");
  EXPECT_TRUE(got.ToDoubles() == run(kGpu, types.in, types.out).ToDoubles()) << "two runs differ";
}

TEST(CudaGemm, EveryLayoutOfEveryOperand) {
  const Lay inputs[] = {Lay::kRows, Lay::kColumns, Lay::kOdd, Lay::kApart};
  for (const Types& types : kTypes) {
    for (const Lay a : inputs) {
      for (const Lay b : inputs) {
        for (const Lay out : {Lay::kRows, Lay::kColumns, Lay::kOdd, Lay::kApart}) {
          const double beta = out == Lay::kRows ? 0 : 0.5;
          CheckProduct({{3}, 17, 33, 40}, {a, b, out}, beta, types);
          CheckProduct({{}, 64, 128, 256}, {a, b, out}, beta, types);
        }
      }
    }
  }
}

TEST(CudaGemm, AddendsApart) {
  for (const Types& types : kTypes) {
    for (const Lay out : {Lay::kRows, Lay::kColumns, Lay::kOdd, Lay::kApart}) {
      for (const bool alike : {false, true}) {
        CheckProduct({{3}, 17, 33, 40}, {Lay::kRows, Lay::kRows, out}, 0.5, types, alike);
        CheckProduct({{}, 64, 128, 256}, {Lay::kRows, Lay::kColumns, out}, 1, types, alike);
        CheckProduct({{6}, 17, 24, 40}, {Lay::kRows, Lay::kOneForAll, out}, 1, types, alike);
      }
    }
  }
}

TEST(CudaGemm, OddAndExtremeSizes) {
  const Sizes sizes[] = {
      {{}, 1, 1, 1},          {{}, 1, 7, 5},       {{}, 7, 1, 5},        {{}, 33, 65, 127},
      {{}, 256, 512, 1024},   {{}, 5, 3, 10'000},  {{}, 100'003, 8, 16}, {{}, 16, 100'003, 8},
      {{}, 1, 4096, 1024},    {{}, 4096, 1, 1024}, {{}, 1, 1, 100'003},  {{}, 129, 1, 1},
      {{2, 3}, 5, 6, 7},      {{70'001}, 4, 4, 4}, {{70'001}, 1, 5, 3},  {{70'001}, 5, 1, 3},
      {{2, 1, 3}, 64, 64, 8}, {{1, 1}, 9, 8, 7},   {{1}, 768, 768, 768}};
  for (const Types& types : kTypes) {
    for (const Sizes& s : sizes) {
      for (const double beta : {0.0, 1.0}) {
        CheckProduct(s, {}, beta, types);
        CheckProduct(s, {Lay::kColumns, Lay::kColumns, Lay::kRows}, beta, types);
      }
    }
  }
}

TEST(CudaGemm, OneFactorForAWholeBatch) {
  for (const Types& types : kTypes) {
    for (const Sizes& s : {Sizes{{6}, 17, 24, 40}, Sizes{{2, 3}, 16, 32, 8}, Sizes{{7}, 1, 9, 5}}) {
      for (const double beta : {0.0, 1.0}) {
        CheckProduct(s, {Lay::kRows, Lay::kOneForAll, Lay::kRows}, beta, types);
        CheckProduct(s, {Lay::kOneForAll, Lay::kRows, Lay::kRows}, beta, types);
        CheckProduct(s, {Lay::kOneForAll, Lay::kOneForAll, Lay::kOdd}, beta, types);
      }
    }
  }
}

// Heads as views of rows, [B, H, T, f] on memory [B, T, H, f], as factors and as the product.
TEST(CudaGemm, HeadsAreViewsOfRows) {
  const int order[] = {0, 2, 1, 3};
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16}) {
    for (const Shape& rows : {Shape{2, 40, 3, 16}, Shape{50, 9, 40, 8}}) {
      const Tensor q = Uniform(rows, 1).To(dtype), k = Uniform(rows, 2).To(dtype);
      const auto run = [&](Device device, DType type) {
        const Tensor left = q.To(type).To(device).Permute(order);
        const Tensor right = k.To(type).To(device).Permute(order).Transpose();
        const Tensor scores = Tensor::Full({rows[0], rows[2], rows[1], rows[1]}, NAN, type, device);
        Backend::For(device).Gemm(left, right, 1, 0, scores);
        const Tensor back = Tensor::Full(rows, NAN, type, device).Permute(order);
        Backend::For(device).Gemm(scores, left, 0.1, 0, back);
        return back;
      };
      const double terms = static_cast<double>(rows[1] * rows[3]);
      const double unit = UnitRoundoff(dtype);
      // Scores of bf16 are rounded before they are summed.
      ExpectClose(run(kGpu, dtype), run({}, DType::kF64),
                  {.relative = 2 * unit,
                   .absolute = (dtype == DType::kBF16 ? 1 : 16 + 2 * std::sqrt(terms)) * unit,
                   .scale = 0.1 * terms / 8},
                  fmt::format("{} {}", Name(dtype), ToString(rows)));
    }
  }
}

TEST(CudaGemm, SumsOfNothing) {
  for (const Types& types : kTypes) {
    const Tensor a = Tensor::Empty({3, 4, 0}, types.in, kGpu);
    const Tensor b = Tensor::Empty({3, 0, 5}, types.in, kGpu);
    Tensor out = Tensor::Full({3, 4, 5}, NAN, types.out, kGpu);
    Backend::For(kGpu).Gemm(a, b, 1, 0, out);
    EXPECT_EQ(out.ToDoubles(), std::vector<double>(60, 0.0));
    out = Tensor::Full({3, 4, 5}, 2, types.out, kGpu);
    Backend::For(kGpu).Gemm(a, b, 1, 0.5, out);
    EXPECT_EQ(out.ToDoubles(), std::vector<double>(60, 1.0));
  }
}

// 1 + 2^-13 has more bits than TF32, 1 + 2^-40 more than f32.
TEST(CudaGemm, KeepsEveryBitOfItsDtype) {
  for (const int64_t n : {8, 64, 1024}) {
    for (const auto& [dtype, value] :
         {std::pair{DType::kF32, 1 + 0x1p-13}, std::pair{DType::kF64, 1 + 0x1p-40}}) {
      std::vector<double> one(n * n, 0.0);
      for (int64_t i = 0; i < n; ++i) one[i * n + i] = 1;
      const Tensor unit = Tensor::FromHost(one, {n, n}, dtype).To(kGpu);
      const Tensor out = Tensor::Full({n, n}, NAN, dtype, kGpu);
      Backend::For(kGpu).Gemm(Tensor::Full({n, n}, value, dtype, kGpu), unit, 1, 0, out);
      EXPECT_EQ(out.ToDoubles(), std::vector<double>(n * n, value));
    }
  }
}

TEST(CudaGemm, LongSumsInBf16AreSumsInSinglePrecision) {
  const int64_t k = 16'384;  // 2^14 ones: above 2^8 a bf16 sum of ones would stand still
  for (const DType out_type : {DType::kBF16, DType::kF32}) {
    const Tensor out = Tensor::Full({16, 24}, NAN, out_type, kGpu);
    Backend::For(kGpu).Gemm(Tensor::Full({16, k}, 1, DType::kBF16, kGpu),
                            Tensor::Full({k, 24}, 1, DType::kBF16, kGpu), 1, 0, out);
    EXPECT_EQ(out.ToDoubles(), std::vector<double>(16 * 24, static_cast<double>(k)));
  }
}

}  // namespace
}  // namespace mnemo::testing
