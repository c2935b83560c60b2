#include "src/job/timing.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "src/core/backend.h"
#include "src/core/random.h"

namespace mnemo {

namespace {

// Seconds of one call in each of `batches` batches that take `least` seconds or more.
std::vector<double> TimeBatches(const std::function<void()>& call, int batches, double least) {
  using Clock = std::chrono::steady_clock;
  call();
  int calls = 1;
  std::vector<double> times;
  while (static_cast<int>(times.size()) < batches) {
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (seconds < least) {
      calls *= 2;
    } else {
      times.push_back(seconds / calls);
    }
  }
  return times;
}

}  // namespace

double SecondsPerCall(const std::function<void()>& call, int batches) {
  std::vector<double> times = TimeBatches(call, batches, 5e-3);
  const auto middle = times.begin() + static_cast<ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

double FastestCall(const std::function<void()>& call) {
  const std::vector<double> times = TimeBatches(call, 60, 1e-3);
  return *std::min_element(times.begin(), times.end());
}

double MeasureCopyBandwidth() {
  const Tensor from = RandomTensor({16 << 20}, DType::kF32);
  const Tensor to = Tensor::Empty(from.shape(), DType::kF32);
  const double seconds = FastestCall([&] { CpuBackend().Copy(from, to); });
  return 2.0 * static_cast<double>(from.bytes()) / seconds;
}

Tensor RandomTensor(const Shape& shape, DType dtype) {
  const RandomStream stream(1, 0, "bench");
  std::vector<double> values(ElementCount(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = stream.Normal(i);
  return Tensor::FromHost(std::span<const double>(values), shape, dtype);
}

}  // namespace mnemo
