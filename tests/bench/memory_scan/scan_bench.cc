// Times the CUDA memory scan, and follows its error over many chunks.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <thread>

#include "tests/bench/memory_scan/scan_check.h"

namespace mnemo::memory_bench {
namespace {

using memory_reference::Mat;

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
constexpr double kCeiling = 788e12;
double ForwardFlops(const MemoryScanShape& s) {
  return s.depth == 1 ? 10.0 * 64 * 64 + 4.0 * s.chunk * 64 : 88.0 * 64 * 64 + 20.0 * s.chunk * 64;
}
double BothFlops(const MemoryScanShape& s) {
  return s.depth == 1 ? 38.0 * 64 * 64 + 14.0 * s.chunk * 64 : ForwardFlops(s) * 57 / 13.5;
}

std::string BenchCase(const char* name, const MemoryScanShape& shape, int repeats,
                      bool side_streams, bool has_backward) {
  const Streams streams;
  Case c{shape};
  if (side_streams) c.side_streams[0] = streams.side[0], c.side_streams[1] = streams.side[1];
  const double tokens = static_cast<double>(shape.batch * shape.tokens);
  const auto time = [&](bool backward, bool retain) {
    c.backward = backward, c.retain = retain;
    DeviceCase d(c, false);
    const auto run = [&] {
      Check(d.Forward(streams.main), "forward");
      if (backward) Check(d.Backward(streams.main), "backward");
    };
    return Time(run, repeats, streams.main);
  };
  const double forward = time(false, false);
  const double again = has_backward ? time(true, false) : NAN;
  const double retained = has_backward ? time(true, true) : NAN;
  const double flops = ForwardFlops(shape) * shape.heads;
  const double limit = kCeiling / flops * 1e-6;
  const double limit_both = kCeiling / (BothFlops(shape) * shape.heads) * 1e-6;
  const double rate = tokens / forward * 1e-3;
  const double both = tokens / again * 1e-3, both_retained = tokens / retained * 1e-3;
  std::printf(
      "%-24s side streams %d: forward %.3f ms %.1f M tokens/s (of %.0f: %.0f%%, %.0f TFLOP/s); "
      "with backward from checkpoints %.3f ms %.2f M tokens/s (of %.0f: %.0f%%), retaining %.2f "
      "GiB "
      "%.3f ms %.2f M tokens/s\n",
      name, side_streams, forward, rate, limit, 100 * rate / limit, rate * flops * 1e-6, again,
      both, limit_both, 100 * both / limit_both,
      static_cast<double>(MemoryScanRetainedBytes(shape)) * 0x1p-30, retained, both_retained);
  std::fflush(stdout);
  std::ostringstream json;
  json << "  {\"shape\": \"" << name << "\", \"batch\": " << shape.batch
       << ", \"tokens\": " << shape.tokens << ", \"heads\": " << shape.heads
       << ", \"side_streams\": " << side_streams << ", \"chunk\": " << shape.chunk
       << ", \"depth\": " << shape.depth << ", \"gelu\": " << shape.gelu
       << ", \"forward_ms\": " << forward << ", \"forward_mtokens_s\": " << rate
       << ", \"forward_limit_mtokens_s\": " << limit;
  if (has_backward) {
    json << ", \"both_ms\": " << again << ", \"both_mtokens_s\": " << both
         << ", \"both_limit_mtokens_s\": " << limit_both << ", \"retained_both_ms\": " << retained
         << ", \"retained_both_mtokens_s\": " << both_retained
         << ", \"retained_bytes\": " << MemoryScanRetainedBytes(shape);
  }
  json << "}";
  return json.str();
}

int WriteJson(const char* file, const std::vector<std::string>& rows) {
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, 0), "properties");
  std::ofstream out(file);
  out << "{\"device\": \"" << properties.name << "\", \"rows\": [\n";
  for (size_t i = 0; i < rows.size(); ++i) out << rows[i] << (i + 1 < rows.size() ? ",\n" : "\n");
  out << "]}\n";
  return out.good() ? 0 : 1;
}

double RelativeRows(const Mat& got, const Mat& want, int first, int count) {
  double error = 0, norm = 1e-300;
  for (int t = first; t < first + count; ++t) {
    for (int i = 0; i < got.cols; ++i) {
      error += std::pow(got(t, i) - want(t, i), 2);
      norm += want(t, i) * want(t, i);
    }
  }
  return std::sqrt(error / norm);
}

// One head over many chunks, against float64: the kernels, and exact arithmetic on rounded
// operands.
std::vector<std::string> GrowthOf(int chunk) {
  constexpr int kChunks = 1000;
  Case c{Shape(1, int64_t{kChunks} * chunk, 2, chunk), 11, true};
  c.alpha_max = 1e-4f;  // where the rule itself neither grows nor forgets everything
  DeviceCase d(c, true);
  Check(d.Forward(nullptr), "forward");
  Check(d.Backward(nullptr), "backward");
  Check(cudaDeviceSynchronize(), "run");
  d.Fetch();
  Mat y[2];
  memory_reference::Gradients g[2];
  std::vector<std::thread> threads;
  for (int rounded = 0; rounded < 2; ++rounded) {
    threads.emplace_back([&, rounded] {
      memory_reference::Rule rule;
      rule.chunk = chunk, rule.round_operands = rounded == 1;
      const memory_reference::Inputs in = d.HostInputs(1);
      y[rounded] = memory_reference::Forward(rule, in).y;
      g[rounded] = memory_reference::Backward(rule, in, d.HostDy(1), d.HostDcarry(1));
    });
  }
  for (std::thread& t : threads) t.join();
  const Mat got = d.DeviceOutputs(1).y;
  const memory_reference::Gradients grad = d.DeviceGradients(1);
  std::vector<std::string> rows;
  for (const int at : {0, 1, 3, 9, 31, 99, 315, 499, 684, 900, 968, 990, 996, 998, 999}) {
    std::ostringstream json;
    const int first = at * chunk;
    json << "  {\"chunk_length\": " << chunk << ", \"chunk\": " << at + 1
         << ", \"y\": " << RelativeRows(got, y[0], first, chunk)
         << ", \"y_rounded\": " << RelativeRows(y[1], y[0], first, chunk)
         << ", \"dq\": " << RelativeRows(grad.q, g[0].q, first, chunk)
         << ", \"dq_rounded\": " << RelativeRows(g[1].q, g[0].q, first, chunk)
         << ", \"dk\": " << RelativeRows(grad.k, g[0].k, first, chunk)
         << ", \"dk_rounded\": " << RelativeRows(g[1].k, g[0].k, first, chunk)
         << ", \"dv\": " << RelativeRows(grad.v, g[0].v, first, chunk)
         << ", \"dv_rounded\": " << RelativeRows(g[1].v, g[0].v, first, chunk) << "}";
    std::printf("%s\n", json.str().c_str());
    rows.push_back(json.str());
  }
  std::fflush(stdout);
  return rows;
}

}  // namespace

int Bench(const char* file, bool backward) {
  std::vector<std::string> rows;
  const auto bench = [&](const char* name, const MemoryScanShape& s, int repeats, bool side) {
    rows.push_back(BenchCase(name, s, repeats, side, backward));
  };
  for (const bool side : {false, true}) {
    bench("B4 T8192", Shape(4, 8192, 16), 20, side);
    bench("B1 T32768", Shape(1, 32768, 16), 20, side);
    bench("chunk 16, B4 T8192", Shape(4, 8192, 16, 16), 10, side);
    bench("chunk 16, B1 T32768", Shape(1, 32768, 16, 16), 10, side);
    bench("depth 1, B4 T8192", FlatShape(Shape(4, 8192, 16)), 20, side);
    bench("depth 1, B1 T32768", FlatShape(Shape(1, 32768, 16)), 20, side);
    bench("depth 1, chunk 16, B4 T8192", FlatShape(Shape(4, 8192, 16, 16)), 20, side);
  }
  MemoryScanShape gelu = Shape(4, 8192, 16);
  gelu.gelu = true;
  bench("GELU, B4 T8192", gelu, 20, true);
  bench("B1 T262144", Shape(1, 262144, 16), 3, true);
  return WriteJson(file, rows);
}

int Growth(const char* file) {
  std::vector<std::string> rows;
  for (const int chunk : {16, 64}) {
    const std::vector<std::string> more = GrowthOf(chunk);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  return WriteJson(file, rows);
}

}  // namespace mnemo::memory_bench
