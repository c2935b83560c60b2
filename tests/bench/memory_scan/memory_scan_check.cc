// Checks the CUDA memory scan against the float64 reference and times it.
//
//   memory_scan_check check          every check; exit status 1 if one fails
//   memory_scan_check bench FILE     times the benchmark shapes, writes JSON to FILE
//   memory_scan_check sanitize       one small call, for compute-sanitizer
//   memory_scan_check profile        one call of the first benchmark shape, for a profiler
//
// --forward-only leaves the backward pass out.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/bench/memory_scan/device_case.h"

namespace mnemo::memory_bench {
namespace {

using memory_reference::Gradients;
using memory_reference::Mat;
using memory_reference::Outputs;
using memory_reference::State;

// Operands of every product are rounded to bf16 (relative 2^-9 at most, a third of it in the
// mean); some ten roundings in a row stay under this. alpha's gradient is a small difference.
// Over many chunks the roundings of the states add to those of the chunk itself.
constexpr double kTolerance = 1e-2;
constexpr double kAlphaTolerance = 2e-2;
constexpr double kManyChunks = 2;

bool has_backward = true;  // false times the forward pass alone

double Relative(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0, norm = 1e-300;
  for (size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return std::isfinite(error) ? std::sqrt(error / norm) : INFINITY;
}

// Worst row's error over the root-mean-square row.
double WorstRow(const Mat& got, const Mat& want) {
  double worst = 0, norm = 1e-300;
  for (int t = 0; t < got.rows; ++t) {
    double error = 0;
    for (int i = 0; i < got.cols; ++i) {
      error += std::pow(got(t, i) - want(t, i), 2);
      norm += want(t, i) * want(t, i) / got.rows;
    }
    worst = std::max(worst, std::isfinite(error) ? error : INFINITY);
  }
  return std::sqrt(worst / norm);
}

struct Row {
  const char* name;
  double error, tolerance;
};

bool Report(const char* title, const std::vector<Row>& rows, double factor) {
  bool good = true;
  std::printf("%s:", title);
  for (const Row& r : rows) {
    const bool within = r.error <= factor * r.tolerance;  // false for NaN
    std::printf(" %s %.1e%s", r.name, r.error, within ? "" : "(!)");
    good = good && within;
  }
  std::printf("%s\n", good ? "" : "  FAILED");
  return good;
}

void CompareOutputs(const Outputs& got, const Outputs& want, std::vector<Row>& rows) {
  rows.push_back({"y", Relative(got.y.v, want.y.v), kTolerance});
  rows.push_back({"y/token", WorstRow(got.y, want.y), 4 * kTolerance});
  const char* names[] = {"W1", "W2", "S1", "S2"};
  for (int i = 0; i < 4; ++i) {
    const auto& a = i < 2 ? got.carry.w : got.carry.s;
    const auto& b = i < 2 ? want.carry.w : want.carry.s;
    rows.push_back({names[i], Relative(a[i % 2].v, b[i % 2].v), kTolerance});
  }
}

void CompareGradients(const Gradients& got, const Gradients& want, std::vector<Row>& rows) {
  rows.push_back({"dq", Relative(got.q.v, want.q.v), kTolerance});
  rows.push_back({"dk", Relative(got.k.v, want.k.v), kTolerance});
  rows.push_back({"dv", Relative(got.v.v, want.v.v), kTolerance});
  rows.push_back({"dtheta", Relative(got.theta, want.theta), kTolerance});
  rows.push_back({"deta", Relative(got.eta, want.eta), kTolerance});
  rows.push_back({"dalpha", Relative(got.alpha, want.alpha), kAlphaTolerance});
  const char* names[] = {"dW1", "dW2", "dS1", "dS2"};
  for (int i = 0; i < 4; ++i) {
    const auto& a = i < 2 ? got.carry.w : got.carry.s;
    const auto& b = i < 2 ? want.carry.w : want.carry.s;
    rows.push_back({names[i], Relative(a[i % 2].v, b[i % 2].v), kTolerance});
  }
}

bool CheckCase(const Case& c, const char* title, int sequences_to_check) {
  DeviceCase d(c, true);
  Check(d.Forward(c.stream), "forward");
  if (c.backward) Check(d.Backward(c.stream), "backward");
  Check(cudaDeviceSynchronize(), "run");
  d.Fetch();
  const uint64_t first = d.Checksum();
  d.PoisonOutputs();
  Check(d.Forward(c.stream), "forward");
  if (c.backward) Check(d.Backward(c.stream), "backward");
  Check(cudaDeviceSynchronize(), "run");
  d.Fetch();
  bool good = d.Checksum() == first;
  if (!good) std::printf("%s: two runs differ  FAILED\n", title);

  const memory_reference::Rule rule{c.shape.depth, c.shape.chunk, c.shape.norm, c.shape.residual,
                                    c.shape.epsilon};
  const int64_t sequences = c.shape.batch * c.shape.heads;
  const int n = static_cast<int>(std::min<int64_t>(sequences, sequences_to_check));
  std::vector<std::vector<Row>> rows(n);
  std::vector<Gradients> gradients(n);
  std::vector<std::thread> threads;
  for (int i = 0; i < n; ++i) {
    threads.emplace_back([&, i] {
      const int64_t sequence = (i * (sequences - 1)) / std::max(1, n - 1);
      const memory_reference::Inputs in = d.HostInputs(sequence);
      CompareOutputs(d.DeviceOutputs(sequence), memory_reference::Forward(rule, in), rows[i]);
      if (!c.backward) return;
      gradients[i] =
          memory_reference::Backward(rule, in, d.HostDy(sequence), d.HostDcarry(sequence));
      CompareGradients(d.DeviceGradients(sequence), gradients[i], rows[i]);
    });
  }
  for (std::thread& t : threads) t.join();
  std::vector<Row> worst = rows[0];
  for (const auto& r : rows)
    for (size_t i = 0; i < r.size(); ++i) worst[i].error = std::max(worst[i].error, r[i].error);
  if (c.backward && n == sequences) {  // the norm's gradients sum over the batch
    std::vector<double> got_g, got_b, want_g, want_b;
    for (int64_t h = 0; h < c.shape.heads; ++h) {
      const Gradients got = d.DeviceGradients(h);
      for (int i = 0; i < 64; ++i) {
        double g = 0, b = 0;
        for (int64_t s = h; s < sequences; s += c.shape.heads)
          g += gradients[s].gain[i], b += gradients[s].bias[i];
        got_g.push_back(got.gain[i]), got_b.push_back(got.bias[i]);
        want_g.push_back(g), want_b.push_back(b);
      }
    }
    worst.push_back({"dgain", Relative(got_g, want_g), kTolerance});
    worst.push_back({"dbias", Relative(got_b, want_b), kTolerance});
  }
  return Report(title, worst, c.shape.tokens > c.shape.chunk ? kManyChunks : 1) && good;
}

MemoryScanShape Shape(int64_t batch, int64_t tokens, int64_t heads) {
  MemoryScanShape s;
  s.batch = batch, s.tokens = tokens, s.heads = heads;
  return s;
}

// Streams for a case: the main one first, of higher priority than the other two.
struct Streams {
  cudaStream_t main, side[2];
  Streams() {
    int lowest, highest;
    Check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "priorities");
    const auto make = [&](cudaStream_t* s, int priority) {
      Check(cudaStreamCreateWithPriority(s, cudaStreamNonBlocking, priority), "stream");
    };
    make(&main, highest), make(&side[0], highest), make(&side[1], lowest);
  }
};

bool CheckAll() {
  bool good = true;
  good &= CheckCase({Shape(1, 64, 2), 1, has_backward}, "one chunk", 2);
  good &= CheckCase({Shape(2, 256, 3), 2, has_backward}, "four chunks", 6);
  good &= CheckCase({Shape(2, 217, 3), 3, has_backward}, "last chunk short", 6);
  MemoryScanShape plain = Shape(1, 130, 2);
  plain.residual = false;
  good &= CheckCase({plain, 4, has_backward}, "no residual", 2);
  const Streams streams;

  Case many{Shape(48, 1700, 4), 5, has_backward};
  good &= CheckCase(many, "several segments", 4);
  many.stream = streams.main, many.side_streams[0] = streams.side[0],
  many.side_streams[1] = streams.side[1];
  good &= CheckCase(many, "several segments, side streams", 4);
  return good;
}

// Median milliseconds.
template <typename F>
double Time(const F& run, int repeats, cudaStream_t stream) {
  cudaEvent_t start, stop;
  Check(cudaEventCreate(&start), "event"), Check(cudaEventCreate(&stop), "event");
  for (int i = 0; i < 3; ++i) run();
  std::vector<float> times(repeats);
  for (float& t : times) {
    Check(cudaEventRecord(start, stream), "record");
    run();
    Check(cudaEventRecord(stop, stream), "record");
    Check(cudaEventSynchronize(stop), "run");
    Check(cudaEventElapsedTime(&t, start, stop), "time");
  }
  std::sort(times.begin(), times.end());
  return times[repeats / 2];
}

// Tensor-core work a token and head, and the rate a large bf16 product reaches on this chip.
constexpr double kForwardFlops = 442e3, kBothFlops = 1.9e6, kCeiling = 788e12;

std::string BenchCase(const char* name, const MemoryScanShape& shape, int repeats,
                      bool side_streams) {
  const Streams streams;
  Case c{shape, 1, has_backward};
  if (side_streams) c.side_streams[0] = streams.side[0], c.side_streams[1] = streams.side[1];
  DeviceCase d(c, false);
  const double tokens = static_cast<double>(shape.batch * shape.tokens);
  const double forward =
      Time([&] { Check(d.Forward(streams.main), "forward"); }, repeats, streams.main);
  double backward = NAN;
  if (has_backward)
    backward = Time([&] { Check(d.Backward(streams.main), "backward"); }, repeats, streams.main);
  const double sol = kCeiling / (kForwardFlops * shape.heads) * 1e-6;
  const double sol_both = kCeiling / (kBothFlops * shape.heads) * 1e-6;
  const double rate = tokens / forward * 1e-3, both = tokens / (forward + backward) * 1e-3;
  std::printf(
      "%-12s forward %.3f ms %.1f M tokens/s (of %.0f: %.0f%%, %.0f TFLOP/s); backward %.3f ms; "
      "both %.2f M tokens/s (of %.0f: %.0f%%)\n",
      name, forward, rate, sol, 100 * rate / sol, rate * kForwardFlops * shape.heads * 1e-6,
      backward, both, sol_both, 100 * both / sol_both);
  std::ostringstream json;
  json << "  {\"shape\": \"" << name << "\", \"batch\": " << shape.batch
       << ", \"tokens\": " << shape.tokens << ", \"heads\": " << shape.heads
       << ", \"side_streams\": " << side_streams << ", \"chunk\": " << shape.chunk
       << ", \"depth\": " << shape.depth << ", \"forward_ms\": " << forward
       << ", \"forward_mtokens_s\": " << rate << ", \"forward_limit_mtokens_s\": " << sol;
  if (has_backward) {
    json << ", \"backward_ms\": " << backward << ", \"both_mtokens_s\": " << both
         << ", \"both_limit_mtokens_s\": " << sol_both;
  }
  json << "}";
  return json.str();
}

int Bench(const char* file) {
  std::vector<std::string> rows;
  for (const bool side : {false, true}) {
    std::printf("side streams %s\n", side ? "on" : "off");
    rows.push_back(BenchCase("B4 T8192", Shape(4, 8192, 16), 20, side));
    rows.push_back(BenchCase("B1 T32768", Shape(1, 32768, 16), 20, side));
    if (side) rows.push_back(BenchCase("B1 T262144", Shape(1, 262144, 16), 3, side));
  }
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, 0), "properties");
  std::ofstream out(file);
  out << "{\"device\": \"" << properties.name << "\", \"rows\": [\n";
  for (size_t i = 0; i < rows.size(); ++i) out << rows[i] << (i + 1 < rows.size() ? ",\n" : "\n");
  out << "]}\n";
  return out.good() ? 0 : 1;
}

int RunOnce(const MemoryScanShape& shape) {
  DeviceCase d({shape, 1, has_backward}, false);
  Check(d.Forward(nullptr), "forward");
  if (has_backward) Check(d.Backward(nullptr), "backward");
  Check(cudaDeviceSynchronize(), "run");
  return 0;
}

}  // namespace
}  // namespace mnemo::memory_bench

int main(int argc, char** argv) {
  using namespace mnemo::memory_bench;
  const std::string mode = argc > 1 ? argv[1] : "";
  for (int i = 1; i < argc; ++i)
    if (std::string(argv[i]) == "--forward-only") has_backward = false;
  if (mode == "check") {
    const bool good = CheckAll();
    std::printf(good ? "all checks passed\n" : "CHECKS FAILED\n");
    return good ? 0 : 1;
  }
  if (mode == "bench" && argc > 2) return Bench(argv[2]);
  if (mode == "sanitize") return RunOnce(Shape(1, 150, 2));
  if (mode == "profile") return RunOnce(Shape(4, 8192, 16));
  std::fprintf(stderr, "usage: memory_scan_check check | bench FILE | sanitize | profile\n");
  return 2;
}
