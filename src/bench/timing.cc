#include "src/bench/timing.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "src/core/backend.h"
#include "src/core/random.h"

namespace mnemo {

double SecondsPerCall(const std::function<void()>& call, int batches) {
  using Clock = std::chrono::steady_clock;
  constexpr double kBatchSeconds = 5e-3;
  call();
  int calls = 1;
  std::vector<double> times;
  while (static_cast<int>(times.size()) < batches) {
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < calls; ++i) call();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (seconds < kBatchSeconds) {
      calls *= 2;
    } else {
      times.push_back(seconds / calls);
    }
  }
  const auto middle = times.begin() + static_cast<ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

double MeasureCopyBandwidth() {
  const Tensor from = RandomTensor({16 << 20}, DType::kF32);
  const Tensor to = Tensor::Empty(from.shape(), DType::kF32);
  const double seconds = SecondsPerCall([&] { CpuBackend().Copy(from, to); });
  return 2.0 * static_cast<double>(from.bytes()) / seconds;
}

Tensor RandomTensor(const Shape& shape, DType dtype) {
  const RandomStream stream(1, 0, "bench");
  std::vector<double> values(ElementCount(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = stream.Normal(i);
  return Tensor::FromHost(std::span<const double>(values), shape, dtype);
}

}  // namespace mnemo
