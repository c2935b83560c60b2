// Times the CPU backend's kernels at the shapes that training runs most: 32 heads, chunks of 64
// tokens, keys of 64, hidden layers of 256. Prints GFLOP/s for products and GB/s (bytes read and
// written once) for the rest. Usage: core_bench [threads [part of a name]].
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <vector>

#include "src/core/backend.h"
#include "src/core/random.h"
#include "src/core/thread_pool.h"

namespace mnemo {
namespace {

// With one thread its own processor time, which other processes do not lengthen; else the clock.
double Now() {
  timespec now;
  clock_gettime(ThreadsForThisThread() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Seconds of one call: the best of many short batches, so that other work on the machine disturbs
// it as little as possible.
double Seconds(const std::function<void()>& run) {
  run();
  int calls = 1;
  double best = 0;
  for (int batch = 0; batch < 60;) {
    double start = Now();
    for (int i = 0; i < calls; ++i) run();
    double seconds = Now() - start;
    if (seconds < 1e-3) {
      calls *= 2;
      continue;
    }
    best = batch == 0 ? seconds / calls : std::min(best, seconds / calls);
    ++batch;
  }
  return best;
}

Tensor Random(const Shape& shape, DType dtype = DType::kF32) {
  RandomStream stream(1, 0, "bench");
  std::vector<double> values(ElementCount(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = stream.Normal(i);
  return Tensor::FromHost(values, shape, dtype);
}

std::string filter;  // only what contains this is timed

void Report(const std::string& name, double work, const char* unit,
            const std::function<void()>& run) {
  if (name.find(filter) == std::string::npos) return;
  double seconds = Seconds(run);
  fmt::print("{:<58}{:>10.1f} us {:>9.1f} {}\n", name, seconds * 1e6, work / seconds * 1e-9, unit);
}

void BenchGemm(const Shape& a_shape, const Shape& b_shape, bool ta, bool tb, DType dtype) {
  auto make = [&](Shape shape, bool transposed) {
    if (transposed) std::swap(shape[shape.size() - 1], shape[shape.size() - 2]);
    Tensor x = Random(shape, dtype);
    return transposed ? x.Transpose() : x;
  };
  Tensor a = make(a_shape, ta), b = make(b_shape, tb);
  Shape out_shape = a_shape;
  out_shape.back() = b_shape.back();
  Tensor out = Tensor::Empty(out_shape, dtype);
  double flops = 2.0 * static_cast<double>(a.elements()) * static_cast<double>(b_shape.back());
  Report(fmt::format("gemm {} {}{} x {}{}", Name(dtype), ToString(a_shape), ta ? "^T" : "",
                     ToString(b_shape), tb ? "^T" : ""),
         flops, "GFLOP/s", [&] { CpuBackend().Gemm(a, b, 1, 0, out); });
}

void BenchProducts() {
  for (DType dtype : {DType::kF32, DType::kF64}) {
    BenchGemm({32, 64, 64}, {32, 64, 256}, false, false, dtype);
    BenchGemm({32, 64, 256}, {32, 256, 64}, false, false, dtype);
    BenchGemm({32, 64, 64}, {32, 64, 64}, false, true, dtype);
    BenchGemm({32, 256, 64}, {32, 64, 64}, true, false, dtype);
    BenchGemm({32, 64, 64}, {32, 64, 256}, true, false, dtype);
    BenchGemm({32, 64, 256}, {32, 256, 64}, false, true, dtype);
  }
  BenchGemm({32, 1, 64}, {32, 64, 256}, false, false, DType::kF32);
  BenchGemm({32, 16, 16}, {32, 16, 64}, false, false, DType::kF32);
  BenchGemm({512, 512}, {512, 512}, false, false, DType::kF32);
  BenchGemm({2048, 512}, {512, 1536}, false, false, DType::kF32);
  BenchGemm({2048, 512}, {512, 1536}, false, true, DType::kF32);
  BenchGemm({512, 2048}, {2048, 1536}, true, false, DType::kF32);
}

void BenchElementwise() {
  Shape tile{32, 64, 256};
  Tensor x = Random(tile), y = Random(tile), out = Tensor::Empty(tile, DType::kF32);
  double bytes = static_cast<double>(x.bytes());
  const std::pair<const char*, UnaryOp> ops[] = {{"exp", UnaryOp::kExp},
                                                 {"sigmoid", UnaryOp::kSigmoid},
                                                 {"tanh", UnaryOp::kTanh},
                                                 {"silu", UnaryOp::kSilu},
                                                 {"silu_grad", UnaryOp::kSiluGrad},
                                                 {"gelu", UnaryOp::kGelu},
                                                 {"gelu_grad2", UnaryOp::kGeluGrad2},
                                                 {"log", UnaryOp::kLog},
                                                 {"relu", UnaryOp::kRelu}};
  for (const auto& [name, op] : ops) {
    UnaryOp which = op;
    Report(fmt::format("{} {}", name, ToString(tile)), 2 * bytes, "GB/s",
           [&, which] { CpuBackend().Unary(which, x, out); });
  }
  Report("mul", 3 * bytes, "GB/s", [&] { CpuBackend().Binary(BinaryOp::kMul, x, y, out); });
  Tensor row = Random({32, 1, 256}).BroadcastTo(tile),
         column = Random({32, 64, 1}).BroadcastTo(tile);
  Report("mul by a row", 2 * bytes, "GB/s",
         [&] { CpuBackend().Binary(BinaryOp::kMul, x, row, out); });
  Report("mul by a column", 2 * bytes, "GB/s",
         [&] { CpuBackend().Binary(BinaryOp::kMul, x, column, out); });
  Tensor small = Random({32, 64, 64}), small_out = Tensor::Empty({32, 64, 64}, DType::kF32);
  Report("add [32, 64, 64]", 3.0 * static_cast<double>(small.bytes()), "GB/s",
         [&] { CpuBackend().Binary(BinaryOp::kAdd, small, small, small_out); });
  Tensor tiny = Random({64}), tiny_out = Tensor::Empty({64}, DType::kF32);
  Report("add [64] (overhead)", 3.0 * 256, "GB/s",
         [&] { CpuBackend().Binary(BinaryOp::kAdd, tiny, tiny, tiny_out); });
  const int order[] = {0, 2, 1, 3};
  Tensor heads = Random({2, 512, 8, 64}).Permute(order);
  Report("copy heads out of time [2, 8, 512, 64]", 2.0 * static_cast<double>(heads.bytes()), "GB/s",
         [&] { heads.Clone(); });
  Tensor flipped = x.Transpose();
  Report("copy transposed [32, 256, 64]", 2 * bytes, "GB/s", [&] { flipped.Clone(); });
}

void BenchReductions() {
  Tensor x = Random({32, 64, 256});
  double bytes = static_cast<double>(x.bytes());
  for (const Shape& shape :
       {Shape{32, 64, 1}, Shape{32, 1, 256}, Shape{1, 1, 256}, Shape{1, 1, 1}}) {
    Tensor out = Tensor::Empty(shape, DType::kF32);
    Report(fmt::format("sum [32, 64, 256] to {}", ToString(shape)), bytes, "GB/s",
           [&] { CpuBackend().Reduce(ReduceOp::kSum, x, out); });
  }
  Tensor out = Tensor::Empty(x.shape(), DType::kF32);
  Report("softmax [32, 64, 256]", 2 * bytes, "GB/s", [&] { CpuBackend().Softmax(x, out); });
  Report("squared norm", bytes, "GB/s", [&] { CpuBackend().SquaredNorm(x); });
  Tensor decay = Random({32, 64, 1}).BroadcastTo(x.shape());
  Report("scan [32, 64, 256], one decay a step", 2 * bytes, "GB/s",
         [&] { CpuBackend().LinearScan(decay, x, false, out); });
  Report("scan [32, 64, 256]", 3 * bytes, "GB/s",
         [&] { CpuBackend().LinearScan(x, x, true, out); });
  Tensor rows = Random({2, 515, 512}), weight = Random({512, 4}), grad = Random({2, 512, 512});
  Tensor conv = Tensor::Empty({2, 512, 512}, DType::kF32);
  Tensor weight_grad = Tensor::Empty({512, 4}, DType::kF32);
  double conv_bytes = 2.0 * static_cast<double>(grad.bytes());
  Report("conv [2, 512, 512], 4 taps", conv_bytes, "GB/s",
         [&] { CpuBackend().DepthwiseConv(rows, weight, conv); });
  Report("conv weight grad", conv_bytes, "GB/s",
         [&] { CpuBackend().DepthwiseConvWeightGrad(rows, grad, weight_grad); });
  Tensor p = Random({1 << 20}), g = Random({1 << 20}), m = Tensor::Zeros({1 << 20}, DType::kF32);
  Tensor v = Tensor::Zeros({1 << 20}, DType::kF32);
  AdamWStep step{1e-3, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 1};
  Report("adamw, 1M parameters", 7.0 * static_cast<double>(p.bytes()), "GB/s",
         [&] { CpuBackend().AdamW(step, g, p, m, v); });
}

}  // namespace
}  // namespace mnemo

int main(int argc, char** argv) {
  if (argc > 1) mnemo::SetThreadsForThisThread(std::max(1, std::atoi(argv[1])));
  if (argc > 2) mnemo::filter = argv[2];
  fmt::print("threads: {}\n", mnemo::ThreadsForThisThread());
  mnemo::BenchProducts();
  mnemo::BenchElementwise();
  mnemo::BenchReductions();
}
