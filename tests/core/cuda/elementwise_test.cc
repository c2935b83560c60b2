// Elementwise kernels of the waist on a GPU: sizes and layouts that take every branch.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "src/core/cuda/cuda_backend.h"
#include "tests/core/cuda/kernel_case.h"

namespace mnemo::testing {
namespace {

CudaDevice& Gpu() { return static_cast<CudaDevice&>(Backend::For(kGpu)); }

const std::vector<Shape>& Shapes() {
  static const auto* shapes =
      new std::vector<Shape>{{},        {1},          {7},
                             {100'003}, {300, 1024},  {70'001, 3},
                             {3, 5},    {2, 1, 9, 1}, {3, 4, 5, 2, 3, 2, 2}};
  return *shapes;
}

TEST(CudaElementwise, Unary) {
  for (int i = 0; i <= static_cast<int>(UnaryOp::kGeluGrad2); ++i) {
    const auto op = static_cast<UnaryOp>(i);
    for (const Shape& shape : Shapes()) {
      CheckKernel({.name = fmt::format("op {} of {}", i, ToString(shape)),
                   .inputs = {Uniform(shape, 1, 0.05, 4)},
                   .out = shape,
                   .run = [op](Backend& backend, std::span<const Tensor> x,
                               const Tensor& out) { backend.Unary(op, x[0], out); },
                   .roundings = 32,
                   .scale = 1});
    }
  }
}

TEST(CudaElementwise, UnaryOfWhatIsFarOut) {
  const std::vector<double> values = {-200, -90, -20, -8, -1e-3, 0, 1e-3, 8, 20, 80, 200};
  const Shape shape{static_cast<int64_t>(values.size())};
  for (const UnaryOp op : {UnaryOp::kSigmoid, UnaryOp::kTanh, UnaryOp::kRelu, UnaryOp::kStep,
                           UnaryOp::kSilu, UnaryOp::kSiluGrad, UnaryOp::kSiluGrad2, UnaryOp::kGelu,
                           UnaryOp::kGeluGrad, UnaryOp::kGeluGrad2}) {
    CheckKernel({.name = fmt::format("op {}", static_cast<int>(op)),
                 .inputs = {Tensor::FromHost(values, shape, DType::kF64)},
                 .out = shape,
                 .run = [op](Backend& backend, std::span<const Tensor> x,
                             const Tensor& out) { backend.Unary(op, x[0], out); },
                 .roundings = 32,
                 .scale = 1});
  }
}

TEST(CudaElementwise, BinaryAndOthers) {
  for (const Shape& shape : Shapes()) {
    const Tensor a = Uniform(shape, 1, -2, 2), b = Uniform(shape, 2, 0.5, 3);
    for (const BinaryOp op : {BinaryOp::kAdd, BinaryOp::kSub, BinaryOp::kMul, BinaryOp::kDiv,
                              BinaryOp::kMax, BinaryOp::kGreater}) {
      CheckKernel({.name = fmt::format("op {} of {}", static_cast<int>(op), ToString(shape)),
                   .inputs = {a, b},
                   .out = shape,
                   .run = [op](Backend& backend, std::span<const Tensor> x,
                               const Tensor& out) { backend.Binary(op, x[0], x[1], out); },
                   .roundings = 2});
    }
    CheckKernel({.name = fmt::format("where of {}", ToString(shape)),
                 .inputs = {a, b, Uniform(shape, 3)},
                 .out = shape,
                 .run = [](Backend& backend, std::span<const Tensor> x, const Tensor& out) {
                   backend.Where(x[2], x[0], x[1], out);
                 }});
    CheckKernel({.name = fmt::format("affine of {}", ToString(shape)),
                 .inputs = {a},
                 .out = shape,
                 .run = [](Backend& backend, std::span<const Tensor> x,
                           const Tensor& out) { backend.Affine(x[0], 1.75, -0.3, out); },
                 .roundings = 4,
                 .scale = 1});
    CheckKernel({.name = fmt::format("sum in place of {}", ToString(shape)),
                 .inputs = {a, b},
                 .out = shape,
                 .run = [](Backend& backend, std::span<const Tensor> x,
                           const Tensor& out) { backend.Binary(BinaryOp::kAdd, out, x[1], out); },
                 .roundings = 2,
                 .in_place = true});
  }
}

TEST(CudaElementwise, BroadcastThroughStrideZero) {
  CheckKernel({.name = "row and column",
               .inputs = {Uniform({1, 1003}, 1), Uniform({777, 1}, 2)},
               .out = {777, 1003},
               .run =
                   [](Backend& backend, std::span<const Tensor> x, const Tensor& out) {
                     backend.Binary(BinaryOp::kMul, x[0].BroadcastTo(out.shape()),
                                    x[1].BroadcastTo(out.shape()), out);
                   },
               .roundings = 2});
}

// Gradients in bf16 added to sums in f32: 1 + n 2^-12 is exact.
TEST(CudaElementwise, NarrowAddedToWide) {
  for (const int64_t n : {1, 7, 1'000'003}) {
    const Tensor sum = Tensor::Full({n}, 1, DType::kF32, kGpu);
    const Tensor one = Tensor::Full({n}, 0x1p-12, DType::kBF16, kGpu);
    for (int i = 0; i < 100; ++i) Backend::For(kGpu).Binary(BinaryOp::kAdd, sum, one, sum);
    EXPECT_EQ(sum.ToDoubles(), std::vector<double>(n, 1 + 100 * 0x1p-12));
  }
}

// Conversions between any two dtypes are those of the CPU, bit by bit, halves and infinities too.
TEST(CudaElementwise, CopiesConvertAsTheCpuDoes) {
  std::vector<double> special = {
      0.0,        -0.0,           1.5,      2.5,       -3.5,
      1e10,       -1e10,          1e30,     1e-30,     0x1p-140,
      1 + 0x1p-8, 1 + 3 * 0x1p-8, INFINITY, -INFINITY, 1 + 0x1p-8 + 0x1p-30};
  const Tensor some = Uniform({5000}, 1, -1000, 1000);
  std::vector<double> values = some.ToDoubles();
  values.insert(values.end(), special.begin(), special.end());
  const Shape shape{5, static_cast<int64_t>(values.size()) / 5};
  const DType types[] = {DType::kF32, DType::kF64, DType::kBF16, DType::kI32};
  for (const DType from : types) {
    std::vector<double> in = values;
    if (from == DType::kI32) {
      for (double& value : in) value = std::trunc(std::isfinite(value) ? std::min(value, 1e6) : 7);
    }
    Tensor x = Tensor::FromHost(in, shape, DType::kF64).To(from);
    for (const DType to : types) {
      if (to == DType::kI32 && from != DType::kI32) {  // beyond i32 the CPU says nothing
        x = Tensor::FromHost(some.ToDoubles(), {1000, 5}, DType::kF64).To(from);
      }
      SCOPED_TRACE(fmt::format("{} to {}", Name(from), Name(to)));
      for (const bool strided : {false, true}) {
        const Tensor there = Place(x, from, kGpu, strided);
        EXPECT_EQ(there.To(to).ToDoubles(), x.To(to).ToDoubles());
        EXPECT_EQ(there.Transpose().Contiguous().ToDoubles(),
                  x.Transpose().Contiguous().ToDoubles());
      }
    }
  }
}

// x [batch, n1, n0] with its last two dims swapped, on a GPU and on the CPU: the same bits.
void ExpectTransposed(const Tensor& x, DType to) {
  SCOPED_TRACE(fmt::format("{} {} to {}", ToString(x.shape()), Name(x.dtype()), Name(to)));
  const Tensor there = x.Contiguous().To(kGpu);
  const Tensor out =
      Tensor::Full({x.dim(0), x.dim(2), x.dim(1)}, to == DType::kI32 ? -1 : NAN, to, kGpu);
  PoisonFreeMemory();
  Backend::For(kGpu).Copy(there.Transpose(), out);
  EXPECT_TRUE(out.ToDoubles() == x.To(to).Transpose().ToDoubles());
}

// Side by side along different dims in x and out, 8 elements or more each way: CopyTransposed. Of 2
// bytes on both sides and even in all sizes it is LaunchTranspose<2>, tiles of 64 x 64; else
// LaunchTranspose<1>, tiles of 32 x 32. Whole tiles, parts of tiles, and more tiles than blocks.
TEST(CudaElementwise, TransposesThroughTiles) {
  const int64_t blocks = 16 * int64_t{Gpu().multiprocessors()};
  for (const Shape& shape : {Shape{1, 64, 64}, Shape{1, 8, 10}, Shape{3, 130, 66}, Shape{2, 8, 200},
                             Shape{1, 64 * blocks / 8 + 2, 520},  // 9 tiles a row: a second turn
                             Shape{1, 65, 64}, Shape{3, 33, 47}, Shape{1, 32 * blocks + 40, 9}}) {
    const Tensor x = Uniform(shape, 1, -1000, 1000);
    for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF64, DType::kI32}) {
      if (dtype != DType::kBF16 && x.elements() > 1'000'000) continue;
      ExpectTransposed(x.To(dtype), dtype);
    }
    // Converting ones, as mixed precision needs them: LaunchTranspose<1>.
    ExpectTransposed(x.To(DType::kF32), DType::kBF16);
    ExpectTransposed(x.To(DType::kBF16), DType::kF32);
    // One element at a time, in the order of the output.
    if (x.elements() < 1'000'000) ExpectTransposed(x, DType::kF32);
  }
}

// Pairs() refuses where a start is odd, in x or in out, and takes even ones.
TEST(CudaElementwise, TransposesFromAnyStart) {
  const Tensor x = Uniform({40, 52}, 1).To(DType::kBF16);
  const Tensor there = x.To(kGpu);
  for (const int64_t from : {0, 1, 2}) {
    for (const int64_t to : {0, 1, 2}) {
      SCOPED_TRACE(fmt::format("from {} to {}", from, to));
      const Tensor out = Tensor::Full({60, 50}, NAN, DType::kBF16, kGpu);
      const Tensor part = out.Slice(0, 3, 39).Slice(1, to, to + 32);
      Backend::For(kGpu).Copy(there.Slice(0, 4, 36).Slice(1, from, from + 36).Transpose(), part);
      EXPECT_EQ(part.ToDoubles(),
                x.Slice(0, 4, 36).Slice(1, from, from + 36).Transpose().ToDoubles());
      const std::vector<double> all = out.ToDoubles();
      EXPECT_EQ(std::count_if(all.begin(), all.end(), [](double y) { return std::isnan(y); }),
                60 * 50 - 36 * 32);
    }
  }
}

TEST(CudaElementwise, FillsAnyLayoutAndNothingElse) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBF16, DType::kI32}) {
    for (const Shape& shape : Shapes()) {
      const Tensor all = Place(Tensor::Zeros(shape, DType::kF64), dtype, kGpu, true);
      Backend::For(kGpu).Fill(all, 3);
      EXPECT_EQ(all.ToDoubles(), std::vector<double>(ElementCount(shape), 3.0));
    }
    const Tensor x = Tensor::Zeros({9, 5}, dtype, kGpu);
    Backend::For(kGpu).Fill(x.Slice(1, 1, 3), 2);
    for (int i = 0; i < 45; ++i) EXPECT_EQ(x.ToDoubles()[i], i % 5 == 1 || i % 5 == 2 ? 2 : 0);
  }
}

}  // namespace
}  // namespace mnemo::testing
