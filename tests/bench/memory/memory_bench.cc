// Times the memory scan, forward and forward with backward, and prints one JSON object: tokens/s,
// GFLOP/s and the share of the machine's matrix product rate, measured in the same run.
// pytorch_memory.py beside it does the same in PyTorch.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "src/core/backend.h"
#include "src/core/fused/memory_scan.h"
#include "src/core/random.h"
#include "src/core/thread_pool.h"

namespace mnemo {
namespace {

struct Options {
  int depth = 2;
  int64_t head_dim = 64, hidden = 256, chunk = 64, heads = 16, batch = 1, tokens = 1024;
  int threads = 2, repeats = 15;
};

// Median seconds of one call, after two to warm up.
double Seconds(int repeats, const std::function<void()>& run) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> times;
  for (int i = 0; i < repeats + 2; ++i) {
    const Clock::time_point start = Clock::now();
    run();
    if (i >= 2) times.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return times[repeats / 2];
}

Tensor Random(const Shape& shape, double scale, double shift = 0) {
  static int64_t step = 0;
  const RandomStream stream(1, step++, "bench");
  std::vector<double> values(ElementCount(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = shift + scale * stream.Normal(i);
  return Tensor::FromHost(values, shape, DType::kF32);
}

// Multiply-adds count as two. Forward only; the backward pass does each product's two adjoints.
double ForwardFlops(const Options& o) {
  double weights = 0, rows = 0;  // per token and head
  for (int i = 0; i < o.depth; ++i) {
    const double in = static_cast<double>(i == 0 ? o.head_dim : o.hidden);
    const double out = static_cast<double>(i + 1 == o.depth ? o.head_dim : o.hidden);
    // Keys forward, deltas backward (but for the first layer), reads of W and S, updates of both.
    weights += 2 * in * out * (i == 0 ? 5 : 6);
    rows += 2 * static_cast<double>(o.chunk) * (in + out);
  }
  return (weights + rows) * static_cast<double>(o.batch * o.heads * o.tokens);
}

double GemmFlopsPerSecond(int repeats) {
  constexpr int64_t kSize = 1024;
  const Tensor a = Random({kSize, kSize}, 1), b = Random({kSize, kSize}, 1);
  const Tensor c = Tensor::Empty({kSize, kSize}, DType::kF32);
  const double seconds = Seconds(repeats, [&] { CpuBackend().Gemm(a, b, 1, 0, c); });
  return 2.0 * kSize * kSize * kSize / seconds;
}

nlohmann::json Report(double seconds, double flops, double peak, const Options& o) {
  return {{"ms", seconds * 1e3},
          {"tokens_per_s", static_cast<double>(o.batch * o.tokens) / seconds},
          {"gflop_per_s", flops / seconds * 1e-9},
          {"share_of_gemm_peak", flops / seconds / peak}};
}

void Run(const Options& o) {
  MemoryRule rule;
  rule.depth = o.depth;
  rule.head_dim = o.head_dim;
  rule.hidden = o.hidden;
  rule.chunk = o.chunk;
  const Shape row{o.batch, o.heads, o.tokens, o.head_dim}, gate{o.batch, o.heads, o.tokens, 1};
  std::vector<Tensor> values = {Random(row, 0.1),      Random(row, 0.1),
                                Random(row, 0.5),      Random(gate, 0, 0.005),
                                Random(gate, 0, 0.49), Random(gate, 0, 1e-3)};
  for (int i = 0; i < o.depth; ++i) {
    values.push_back(Random({o.heads, rule.out_dim(i), rule.in_dim(i)}, 0.1));
  }
  values.push_back(Random({o.heads, 1, o.head_dim}, 0, 1));
  values.push_back(Random({o.heads, 1, o.head_dim}, 0, 0));
  const auto scan = [&](std::span<const Var> x) {
    const MemoryTokens tokens{x[0], x[1], x[2], x[3], x[4], x[5]};
    MemoryParameters parameters;
    parameters.initial.w.assign(x.begin() + 6, x.begin() + 6 + o.depth);
    parameters.norm_weight = x[6 + o.depth];
    parameters.norm_bias = x[7 + o.depth];
    return MemoryScan(rule, parameters, tokens, InitialMemoryState(rule, parameters, o.batch));
  };
  const std::vector<Var> constants(values.begin(), values.end());
  const Tensor seed = Random(row, 1);
  const double peak = GemmFlopsPerSecond(o.repeats);
  const double forward = Seconds(o.repeats, [&] { scan(constants); });
  CpuBackend().ResetPeakMemory();
  const double both = Seconds(o.repeats, [&] {
    Tape tape;
    std::vector<Var> leaves;
    for (const Tensor& value : values) leaves.push_back(tape.Leaf(value));
    const Var y = scan(leaves).y;
    tape.Gradient({&y, 1}, {&seed, 1}, leaves);
  });
  const double flops = ForwardFlops(o);
  const nlohmann::json report = {
      {"depth", o.depth},
      {"head_dim", o.head_dim},
      {"hidden", o.hidden},
      {"chunk", o.chunk},
      {"heads", o.heads},
      {"batch", o.batch},
      {"tokens", o.tokens},
      {"threads", ThreadsForThisThread()},
      {"gemm_peak_gflop_per_s", peak * 1e-9},
      {"forward", Report(forward, flops, peak, o)},
      {"forward_backward", Report(both, 3 * flops, peak, o)},
      {"peak_mib", static_cast<double>(CpuBackend().Memory().peak_bytes) / (1 << 20)}};
  fmt::print("{}\n", report.dump(2));
}

}  // namespace
}  // namespace mnemo

int main(int argc, char** argv) {
  mnemo::Options options;
  CLI::App app("Times the memory scan on the CPU in f32.");
  app.add_option("--depth", options.depth, "layers of the memory network");
  app.add_option("--head-dim", options.head_dim, "features of a head");
  app.add_option("--hidden", options.hidden, "features of a hidden layer");
  app.add_option("--chunk", options.chunk, "tokens of a chunk");
  app.add_option("--heads", options.heads, "heads");
  app.add_option("--batch", options.batch, "sequences");
  app.add_option("--tokens", options.tokens, "tokens of a sequence");
  app.add_option("--threads", options.threads, "threads");
  app.add_option("--repeats", options.repeats, "timed calls; the median counts");
  CLI11_PARSE(app, argc, argv);
  mnemo::SetThreadsForThisThread(options.threads);
  mnemo::Run(options);
}
