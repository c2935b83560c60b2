#include "src/job/gemm_ceiling.h"

#include <algorithm>
#include <chrono>

#include "src/core/backend.h"
#include "src/job/timing.h"

namespace mnemo {
namespace {

// Where a product is large enough for the device to be at its best, and not so for its turn to end.
constexpr int64_t kHostSize = 512, kGpuSize = 8192;
// Where other processes take turns, only some products run undisturbed.
constexpr int kLeastProducts = 20;

// Square, of values as those of a model: zeros, and equal ones, cost a GPU less power.
Tensor Matrix(int64_t size, DType dtype, Device device) {
  const int64_t tile = std::min(size, kHostSize), tiles = size / tile;
  const Tensor random = RandomTensor({1, tile, 1, tile}, DType::kF32).To(device).To(dtype);
  return random.BroadcastTo({tiles, tile, tiles, tile}).Contiguous().View({size, size});
}

}  // namespace

double MeasureGemmCeiling(DType dtype, Device device, double seconds) {
  using Clock = std::chrono::steady_clock;
  const int64_t size = device.type == DeviceType::kCuda ? kGpuSize : kHostSize;
  const Tensor a = Matrix(size, dtype, device), b = Matrix(size, dtype, device);
  const Tensor c = Tensor::Empty({size, size}, dtype, device);
  Backend& backend = Backend::For(device);
  const Tensor corner = c.Slice(0, 0, 1).Slice(1, 0, 1);
  const auto once = [&] {
    const Clock::time_point begin = Clock::now();
    backend.Gemm(a, b, 1, 0, c);
    (void)corner.Item();  // waits for a device that works in the background
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  once();  // starts threads and fills caches
  double fastest = 1e30;
  const Clock::time_point begin = Clock::now();
  for (int products = 0;; ++products) {
    const double elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
    if (elapsed > seconds && (products >= kLeastProducts || elapsed > 10 * seconds)) break;
    fastest = std::min(fastest, once());
  }
  const double flops = 2.0 * static_cast<double>(size * size * size);
  return fastest > 0 ? flops / fastest : 0;
}

}  // namespace mnemo
