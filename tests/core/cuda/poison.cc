#include "tests/core/cuda/poison.h"

#include <vector>

#include "src/core/cuda/check.h"
#include "src/core/cuda/cuda_backend.h"

namespace mnemo::testing {

void PoisonFreeMemory() {
  auto& device = static_cast<CudaDevice&>(Backend::For(kGpu));
  std::vector<Tensor> all;
  while (device.arena().largest_free_bytes() > 0) {
    const int64_t bytes = device.arena().largest_free_bytes();
    all.push_back(Tensor::Empty({bytes / 2}, DType::kBF16, kGpu));
    MNEMO_CUDA(cudaMemsetAsync(all.back().raw(), 0xff, bytes, device.stream()));  // NaN
  }
}

}  // namespace mnemo::testing
