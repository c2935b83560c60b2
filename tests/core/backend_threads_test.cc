// Results are a function of shapes and values: the same bits for any number of threads, and of
// callers.
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "src/core/ops.h"
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
  ExpectSame("norm", [&] {
    return Tensor::Full({1}, backend().SquaredNorms({&x, 1})[0], DType::kF64);
  });
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

// A little of everything that a block does, with derivatives.
std::vector<Tensor> RunAStep(const Tensor& x, const Tensor& w, const Tensor& kernel) {
  Tape tape;
  const Var input = tape.Leaf(x), weight = tape.Leaf(w), taps = tape.Leaf(kernel);
  const Var mixed =
      Silu(DepthwiseConv(PadSlice(input, 1, 3, x.dim(1) + 3), taps));  // three rows of zeros first
  const Var scores = Softmax(MatMul(mixed, weight));
  const Var scan = LinearScan(Affine(scores, 0.5, 0.25), mixed);
  const Var state = AddMatMul(MatMul(Transpose(mixed), mixed), Transpose(scan), scores, 0.5);
  const Var y = MatMul(scores, state);
  const Var norm = Mul(y, Rsqrt(Affine(Mean(Square(y), -1), 1, 1e-6)));
  const Var wrt[] = {input, weight, taps}, outputs[] = {norm};
  const Tensor seed[] = {Tensor::Full(norm.shape(), 0.5, x.dtype())};
  std::vector<Tensor> results = tape.Gradient(outputs, seed, wrt);
  results.push_back(norm.value());
  return results;
}

// Callers with pools of their own, on inputs that they share, through the one allocator.
TEST_P(Threads, ManyCallersAtOnce) {
  const Tensor x = Input({2, 301, 48}, "x"), w = Input({48, 48}, "w"),
               taps = Input({48, 4}, "taps");
  SetThreadsForThisThread(1);
  const std::vector<Tensor> want = RunAStep(x, w, taps);
  constexpr int kCallers = 4;
  std::vector<int> different(kCallers, 0);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      SetThreadsForThisThread(1 + caller % 3);
      for (int round = 0; round < 3; ++round) {
        const std::vector<Tensor> got = RunAStep(x, w, taps);
        for (size_t i = 0; i < want.size(); ++i) {
          const Tensor mine = got[i].Contiguous(), first = want[i].Contiguous();
          if (std::memcmp(mine.raw(), first.raw(), first.bytes()) != 0) ++different[caller];
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(different, std::vector<int>(kCallers, 0));
}

// A tensor that one thread made is read and freed by another.
TEST_P(Threads, TensorsChangeHands) {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Tensor> handed;
  constexpr int kCount = 200;
  std::thread maker([&] {
    SetThreadsForThisThread(2);
    for (int i = 0; i < kCount; ++i) {
      Tensor x = Tensor::Full({37, 129}, i, dtype());
      std::lock_guard<std::mutex> lock(mutex);
      handed.push_back(std::move(x));
      changed.notify_one();
    }
  });
  SetThreadsForThisThread(2);
  for (int i = 0; i < kCount; ++i) {
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return !handed.empty(); });
    const Tensor x = std::move(handed.front());
    handed.pop_front();
    lock.unlock();
    const Tensor sum = Poisoned({1, 1}, dtype());
    backend().Reduce(ReduceOp::kSum, x, sum);
    ASSERT_EQ(sum.Item(), 37.0 * 129 * i);
  }
  maker.join();
}

}  // namespace
}  // namespace mnemo
