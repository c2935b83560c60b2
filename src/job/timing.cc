#include "src/job/timing.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "src/core/backend.h"
#include "src/core/random.h"

namespace mnemo {

namespace {

// Seconds of one call in each of `batches` batches that take `least` seconds or more, `wait` at the
// end of each included.
std::vector<double> TimeBatches(
    const std::function<void()>& call, int batches, double least,
    const std::function<void()>& wait = [] {}) {
  using Clock = std::chrono::steady_clock;
  call();
  wait();
  int calls = 1;
  std::vector<double> times;
  while (static_cast<int>(times.size()) < batches) {
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    wait();
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

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double SecondsPerCall(const std::function<void()>& call, int batches) {
  return Median(TimeBatches(call, batches, 5e-3));
}

double MedianCall(const std::function<void()>& call, const std::function<void()>& wait) {
  return Median(TimeBatches(call, 7, 30e-3, wait));
}

void WaitFor(Device device) { (void)Tensor::Zeros({}, DType::kF32, device).Item(); }

double FastestCall(const std::function<void()>& call) {
  const std::vector<double> times = TimeBatches(call, 60, 1e-3);
  return *std::min_element(times.begin(), times.end());
}

double MeasureCopyBandwidth(Device device) {
  const bool on_host = device.type == DeviceType::kCpu;
  const Tensor once = RandomTensor({1, 16 << 20}, DType::kF32).To(device);
  const Tensor from = once.BroadcastTo({on_host ? 1 : 16, once.dim(1)}).Contiguous();
  const Tensor to = Tensor::Empty(from.shape(), DType::kF32, device);
  const auto copy = [&] { Backend::For(device).Copy(from, to); };
  const double seconds =
      on_host ? FastestCall(copy) : MedianCall(copy, [device] { WaitFor(device); });
  return 2.0 * static_cast<double>(from.bytes()) / seconds;
}

Tensor RandomTensor(const Shape& shape, DType dtype) {
  const RandomStream stream(1, 0, "bench");
  std::vector<double> values(ElementCount(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = stream.Normal(i);
  return Tensor::FromHost(std::span<const double>(values), shape, dtype);
}

}  // namespace mnemo
