// Reductions, softmax, scans and gathers of the waist on a GPU: long rows, many rows, many columns.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "src/core/cuda/cuda_backend.h"
#include "tests/core/cuda/kernel_case.h"

namespace mnemo::testing {
namespace {

CudaDevice& Gpu() { return static_cast<CudaDevice&>(Backend::For(kGpu)); }

TEST(CudaReduce, SumsAndMaxima) {
  struct Shapes {
    Shape x, out;
  };
  for (const Shapes& s :
       {Shapes{{10'000'003}, {1}}, Shapes{{70'001, 33}, {70'001, 1}}, Shapes{{70'001, 33}, {1, 33}},
        Shapes{{3, 100'003, 5}, {3, 1, 5}}, Shapes{{3, 100'003, 5}, {1, 100'003, 1}},
        Shapes{{5, 7, 11, 13}, {5, 1, 11, 1}}, Shapes{{5, 7, 11, 13}, {1, 7, 1, 13}},
        Shapes{{2, 300'001}, {2, 1}}, Shapes{{200'003, 2}, {1, 2}}, Shapes{{4096, 4096}, {4096, 1}},
        Shapes{{4096, 4096}, {1, 4096}}, Shapes{{6, 5}, {6, 5}}, Shapes{{1, 1}, {1, 1}},
        // Rows in packs (a multiple of 8 elements) whose pieces share a result: ReduceRows<kPack>
        // with several chunks.
        Shapes{{2, 400'000}, {2, 1}}, Shapes{{4'000'000}, {1}},
        Shapes{{3, 2, 80'000}, {3, 1, 1}}}) {
    const auto terms = static_cast<double>(ElementCount(s.x)) / ElementCount(s.out);
    const Tensor x = Uniform(s.x, 1);
    const bool small = x.elements() < 3'000'000;
    CheckKernel({.name = fmt::format("sum {} to {}", ToString(s.x), ToString(s.out)),
                 .inputs = {x},
                 .out = s.out,
                 .run = [](Backend& backend, std::span<const Tensor> v,
                           const Tensor& out) { backend.Reduce(ReduceOp::kSum, v[0], out); },
                 .roundings = terms == 1 ? 0 : 64.0,  // of the sum of absolute values
                 .scale = terms,
                 .strided = small});
    CheckKernel({.name = fmt::format("maximum {} to {}", ToString(s.x), ToString(s.out)),
                 .inputs = {x},
                 .out = s.out,
                 .run = [](Backend& backend, std::span<const Tensor> v,
                           const Tensor& out) { backend.Reduce(ReduceOp::kMax, v[0], out); },
                 .strided = small});
  }
}

TEST(CudaReduce, SumsOfNothingAreZero) {
  const Tensor x = Tensor::Empty({4, 0}, DType::kF32, kGpu);
  const Tensor out = Tensor::Full({4, 1}, NAN, DType::kF32, kGpu);
  Backend::For(kGpu).Reduce(ReduceOp::kSum, x, out);
  EXPECT_EQ(out.ToDoubles(), std::vector<double>(4, 0.0));
}

TEST(CudaReduce, NanReachesSumAndMaximum) {
  for (const int64_t n : {5, 1000, 100'003}) {
    std::vector<double> values(n, -1.0);
    values[n / 2] = NAN;
    const Tensor x = Tensor::FromHost(values, {1, n}, DType::kF32).To(kGpu);
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax}) {
      const Tensor out = Tensor::Zeros({1, 1}, DType::kF32, kGpu);
      Backend::For(kGpu).Reduce(op, x, out);
      const Tensor want = Tensor::Zeros({1, 1}, DType::kF32);
      CpuBackend().Reduce(op, x.To(Device{}), want);
      EXPECT_EQ(std::isnan(out.Item()), std::isnan(want.Item()));
    }
  }
}

TEST(CudaSoftmax, LongAndManyRows) {
  for (const Shape& shape :
       {Shape{3, 100'003}, Shape{70'001, 17}, Shape{1000, 1}, Shape{257, 4096}, Shape{70'001, 128},
        Shape{2, 3, 5, 33}, Shape{1, 1'000'003},
        // In packs, with kLongThreads to a row; just below, with kThreads.
        Shape{3, 8192}, Shape{5, 40'000}, Shape{2, 1'000'000}, Shape{700, 8184}}) {
    CheckKernel({.name = ToString(shape),
                 .inputs = {Uniform(shape, 1, -6, 6)},
                 .out = shape,
                 .run = [](Backend& backend, std::span<const Tensor> x,
                           const Tensor& out) { backend.Softmax(x[0], out); },
                 .roundings = 64});
  }
}

// More rows than blocks, a block to a row: what a block's warps share is used twice.
TEST(CudaSoftmax, BlocksThatTakeTwoRows) {
  const int64_t blocks = 16 * int64_t{Gpu().multiprocessors()};
  for (const int64_t columns : {8192, 4100}) {  // kLongThreads and kThreads
    const Tensor x = Uniform({blocks + 50, columns}, 1, -6, 6).To(DType::kF32);
    const Tensor there = x.To(kGpu), out = Tensor::Full(x.shape(), NAN, DType::kF32, kGpu);
    Gpu().Softmax(there, out);
    const Tensor want = Tensor::Empty(x.shape(), DType::kF64);
    CpuBackend().Softmax(x.To(DType::kF64), want);
    ExpectClose(out, want, {.absolute = 64 * UnitRoundoff(DType::kF32)},
                fmt::format("{} columns", columns));
  }
}

TEST(CudaSoftmax, RowsOfMinusInfinityBecomeZeros) {
  for (const int64_t n : {1, 31, 1000, 70'001}) {
    std::vector<double> values(3 * n, -INFINITY);
    for (int64_t i = 0; i < n; ++i) values[n + i] = i % 3 == 0 ? 500.0 : -INFINITY;
    CheckKernel({.name = fmt::format("{} columns", n),
                 .inputs = {Tensor::FromHost(values, {3, n}, DType::kF64)},
                 .out = {3, n},
                 .run = [](Backend& backend, std::span<const Tensor> x,
                           const Tensor& out) { backend.Softmax(x[0], out); },
                 .roundings = 16});
  }
}

TEST(CudaScan, LongAndManySequences) {
  for (const bool reverse : {false, true}) {
    for (const Shape& shape :
         {Shape{2, 10'007, 3}, Shape{1, 1, 5}, Shape{70'001, 3, 2}, Shape{3, 129, 1},
          Shape{4, 64, 64}, Shape{100'003, 1}, Shape{2, 3, 17, 65}}) {
      const auto run = [reverse](Backend& backend, std::span<const Tensor> x, const Tensor& out) {
        backend.LinearScan(x[0].BroadcastTo(out.shape()), x[1], reverse, out);
      };
      Shape one = shape;
      one.back() = 1;
      for (const Shape& a : {shape, one}) {
        CheckKernel({.name = fmt::format("{} by {}{}", ToString(shape), ToString(a),
                                         reverse ? " reverse" : ""),
                     .inputs = {Uniform(a, 1, -0.9, 0.98), Uniform(shape, 2)},
                     .out = shape,
                     .run = run,
                     .roundings = 64});
      }
    }
  }
}

// More columns than kManyColumns: the scan stays whole, longer than kLongScan though it is.
TEST(CudaScan, LongOverManyColumns) {
  for (const bool reverse : {false, true}) {
    for (const Shape& shape : {Shape{1, 300, 32'768}, Shape{3, 257, 11'003}}) {
      Shape one = shape;
      one.back() = 1;
      CheckKernel({.name = fmt::format("{}{}", ToString(shape), reverse ? " reverse" : ""),
                   .inputs = {Uniform(one, 1, -0.9, 0.98), Uniform(shape, 2)},
                   .out = shape,
                   .run =
                       [reverse](Backend& backend, std::span<const Tensor> x, const Tensor& out) {
                         backend.LinearScan(x[0].BroadcastTo(out.shape()), x[1], reverse, out);
                       },
                   .roundings = 64,
                   .strided = false});
    }
  }
}

TEST(CudaConv, ForwardAndWeights) {
  struct Sizes {
    int64_t batch, rows, taps, columns;
  };
  for (const Sizes& s : {Sizes{2, 5003, 4, 7}, Sizes{1, 1, 4, 1030}, Sizes{3, 129, 1, 33},
                         Sizes{2, 300, 7, 64}, Sizes{70'001, 1, 2, 3}, Sizes{4, 512, 4, 512}}) {
    const Shape x{s.batch, s.rows + s.taps - 1, s.columns}, y{s.batch, s.rows, s.columns};
    const std::string name =
        fmt::format("{} x {} rows, {} taps, {} columns", s.batch, s.rows, s.taps, s.columns);
    CheckKernel({.name = name,
                 .inputs = {Uniform(x, 1), Uniform({s.columns, s.taps}, 2)},
                 .out = y,
                 .run = [](Backend& backend, std::span<const Tensor> v,
                           const Tensor& out) { backend.DepthwiseConv(v[0], v[1], out); },
                 .roundings = 16,
                 .scale = static_cast<double>(s.taps)});
    CheckKernel({.name = "weights of " + name,
                 .inputs = {Uniform(x, 1), Uniform(y, 3)},
                 .out = {s.columns, s.taps},
                 .run = [](Backend& backend, std::span<const Tensor> v,
                           const Tensor& out) { backend.DepthwiseConvWeightGrad(v[0], v[1], out); },
                 .roundings = 64,
                 .scale = static_cast<double>(s.batch * s.rows)});
  }
}

Tensor Ids(int64_t count, int32_t low, int32_t high, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = low + static_cast<int32_t>(random() % (high - low));
  return Tensor::FromHost(ids, {count});
}

TEST(CudaGather, RowsAndTheirSums) {
  struct Sizes {
    int64_t table, rows, columns;
  };
  for (const Sizes& s : {Sizes{1000, 50'003, 130}, Sizes{10, 50'003, 33}, Sizes{70'001, 100'003, 3},
                         Sizes{1, 777, 64}, Sizes{32'000, 4096, 512}, Sizes{5, 1, 1}}) {
    const std::string name = fmt::format("{} of {} rows of {}", s.rows, s.table, s.columns);
    const Tensor ids = Ids(s.rows, 0, static_cast<int32_t>(s.table), 1);
    CheckKernel({.name = name,
                 .inputs = {Uniform({s.table, s.columns}, 1), ids},
                 .out = {s.rows, s.columns},
                 .run = [](Backend& backend, std::span<const Tensor> x, const Tensor& out) {
                   backend.GatherRows(x[0], x[1], out);
                 }});
    CheckKernel({.name = "sums of " + name,
                 .inputs = {Uniform({s.rows, s.columns}, 2), ids},
                 .out = {s.table, s.columns},
                 .run = [](Backend& backend, std::span<const Tensor> x,
                           const Tensor& out) { backend.ScatterAddRows(x[0], x[1], out); },
                 .roundings = 128,
                 .scale = std::max(1.0, static_cast<double>(s.rows) / s.table)});
  }
}

TEST(CudaGather, ColumnsWithIdsOutside) {
  for (const Shape& shape : {Shape{70'001, 100}, Shape{3, 1}, Shape{5, 50'003}}) {
    const Tensor ids = Ids(shape[0], -2, static_cast<int32_t>(shape[1]) + 2, 3);
    CheckKernel({.name = "pick " + ToString(shape),
                 .inputs = {Uniform(shape, 1), ids},
                 .out = {shape[0], 1},
                 .run = [](Backend& backend, std::span<const Tensor> x, const Tensor& out) {
                   backend.PickColumns(x[0], x[1], out);
                 }});
    CheckKernel({.name = "place " + ToString(shape),
                 .inputs = {Uniform({shape[0], 1}, 2), ids},
                 .out = shape,
                 .run = [](Backend& backend, std::span<const Tensor> x, const Tensor& out) {
                   backend.PlaceColumns(x[0], x[1], out);
                 }});
  }
}

}  // namespace
}  // namespace mnemo::testing
