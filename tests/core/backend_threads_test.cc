// Results are a function of shapes and values: the same bits for any number of threads.
#include <cstring>

#include "src/core/thread_pool.h"
#include "tests/core/backend_test_util.h"

namespace mnemo {
namespace {

class Threads : public BackendTest {
 protected:
  void TearDown() override { SetThreadsForThisThread(1); }

  // `run` returns what it computed; compared bitwise over thread counts.
  void ExpectSame(const char* what, const std::function<Tensor()>& run) {
    SetThreadsForThisThread(1);
    Tensor want = run();
    for (int threads : {2, 3, 5}) {
      SetThreadsForThisThread(threads);
      Tensor got = run();
      ASSERT_EQ(got.bytes(), want.bytes());
      EXPECT_EQ(std::memcmp(got.raw(), want.raw(), want.bytes()), 0) << what << " " << threads;
    }
  }

  Tensor Input(const Shape& shape, const char* name) {
    return RandomInput(Layout::kContiguous, shape, dtype(), name);
  }
};
INSTANTIATE_TEST_SUITE_P(Cpu, Threads, testing::Values(DType::kF32, DType::kF64), DTypeName);

TEST_P(Threads, Elementwise) {
  Tensor x = Input({3, 301, 157}, "x"), row = Input({157}, "row").BroadcastTo({3, 301, 157});
  ExpectSame("silu", [&] {
    Tensor out = Poisoned(x.shape(), dtype());
    backend().Unary(UnaryOp::kSilu, x, out);
    return out;
  });
  ExpectSame("add", [&] {
    Tensor out = Poisoned(x.shape(), dtype());
    backend().Binary(BinaryOp::kAdd, x, row, out);
    return out;
  });
  ExpectSame("transpose", [&] { return x.Transpose().Clone(); });
}

TEST_P(Threads, Reductions) {
  Tensor x = Input({3, 301, 257}, "x");
  for (const Shape& shape :
       {Shape{1, 1, 1}, Shape{3, 301, 1}, Shape{1, 1, 257}, Shape{3, 1, 257}, Shape{1, 301, 257}}) {
    ExpectSame("sum", [&] {
      Tensor out = Poisoned(shape, dtype());
      backend().Reduce(ReduceOp::kSum, x, out);
      return out;
    });
  }
  ExpectSame("softmax", [&] {
    Tensor out = Poisoned(x.shape(), dtype());
    backend().Softmax(x, out);
    return out;
  });
  ExpectSame("norm", [&] { return Tensor::Full({1}, backend().SquaredNorm(x), DType::kF64); });
}

TEST_P(Threads, Products) {
  Tensor a = Input({9, 64, 70}, "a"), b = Input({9, 70, 130}, "b");
  ExpectSame("batched", [&] {
    Tensor out = Poisoned({9, 64, 130}, dtype());
    backend().Gemm(a, b, 1, 0, out);
    return out;
  });
  Tensor tall = Input({700, 128}, "tall"), wide = Input({128, 130}, "wide");
  ExpectSame("panels", [&] {
    Tensor out = Poisoned({700, 130}, dtype());
    backend().Gemm(tall, wide, 1, 0, out);
    return out;
  });
}

TEST_P(Threads, Structured) {
  Tensor x = Input({2, 1203, 96}, "x"), w = Input({96, 4}, "w");
  Tensor y = Input({2, 1200, 96}, "y");
  ExpectSame("conv", [&] {
    Tensor out = Poisoned({2, 1200, 96}, dtype());
    backend().DepthwiseConv(x, w, out);
    return out;
  });
  ExpectSame("conv weight grad", [&] {
    Tensor out = Poisoned({96, 4}, dtype());
    backend().DepthwiseConvWeightGrad(x, y, out);
    return out;
  });
  ExpectSame("scan", [&] {
    Tensor out = Poisoned({2, 1200, 96}, dtype());
    backend().LinearScan(RandomInput(Layout::kContiguous, {2, 1200, 96}, dtype(), "a", 0.3), y,
                         true, out);
    return out;
  });
  std::vector<int32_t> ids(1203);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * i % 50);
  Tensor index = Tensor::FromHost(ids, {1203}), rows = Input({1203, 200}, "rows");
  ExpectSame("scatter", [&] {
    Tensor out = Poisoned({50, 200}, dtype());
    backend().ScatterAddRows(rows, index, out);
    return out;
  });
}

TEST(Memory, CountsLiveTensors) {
  Backend& backend = CpuBackend();
  backend.ResetPeakMemory();
  MemoryUse before = backend.Memory();
  {
    Tensor a = Tensor::Empty({1000, 1000}, DType::kF32);
    Tensor view = a.Slice(0, 0, 10);
    Tensor b = Tensor::Empty({3}, DType::kF64);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.raw()) % 64, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(b.raw()) % 64, 0u);
    EXPECT_EQ(backend.Memory().current_bytes - before.current_bytes, 4000024);
  }
  EXPECT_EQ(backend.Memory().current_bytes, before.current_bytes);
  EXPECT_EQ(backend.Memory().peak_bytes - before.current_bytes, 4000024);
  backend.ResetPeakMemory();
  EXPECT_EQ(backend.Memory().peak_bytes, before.current_bytes);
}

// Every size around the class boundaries: blocks that are alive together must not overlap.
TEST(Memory, BlocksOfEverySizeAreDisjoint) {
  for (int round = 0; round < 2; ++round) {  // the second one from the cache
    std::vector<Tensor> live;
    for (int64_t bytes = 1; bytes < 5000; bytes += 3) {
      Tensor x = Tensor::Empty({bytes / 2 + 1}, DType::kBF16);
      std::memset(x.raw(), static_cast<int>(bytes & 0xff), x.bytes());
      live.push_back(x);
    }
    int64_t bytes = 1;
    for (const Tensor& x : live) {
      for (int64_t i = 0; i < x.bytes(); ++i) {
        ASSERT_EQ(static_cast<const uint8_t*>(x.raw())[i], bytes & 0xff);
      }
      bytes += 3;
    }
  }
}

TEST(Memory, RefusesWhatTheMachineDoesNotHave) {
  try {
    Tensor::Empty({int64_t{1} << 60}, DType::kBF16);
    FAIL() << "no error";
  } catch (const TensorError& error) {
    EXPECT_EQ(error.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(error.what(), testing::HasSubstr("no memory for a tensor of 2305843009213693952"));
  }
}

TEST(Device, AbsentGpuIsAnError) {
  EXPECT_THROW(Tensor::Empty({1}, DType::kF32, Device{DeviceType::kCuda, 63}), TensorError);
}

}  // namespace
}  // namespace mnemo
