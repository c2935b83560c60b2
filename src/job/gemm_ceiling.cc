#include "src/job/gemm_ceiling.h"

#include <algorithm>
#include <chrono>

#include "src/core/backend.h"

namespace mnemo {
namespace {

constexpr int64_t kSize = 512;
// Where other processes take turns, only some products run undisturbed.
constexpr int kLeastProducts = 20;

}  // namespace

double MeasureGemmCeiling(DType dtype, Device device, double seconds) {
  using Clock = std::chrono::steady_clock;
  const Tensor a = Tensor::Full({kSize, kSize}, 0.5, dtype, device);
  const Tensor b = Tensor::Full({kSize, kSize}, 0.25, dtype, device);
  const Tensor c = Tensor::Empty({kSize, kSize}, dtype, device);
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
  const double flops = 2.0 * kSize * kSize * kSize;
  return fastest > 0 ? flops / fastest : 0;
}

}  // namespace mnemo
