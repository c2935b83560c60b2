#include "src/core/cuda/host_copies.h"

#include <algorithm>

#include "src/core/cuda/check.h"

namespace mnemo::cuda {
namespace {

class PinnedStorage final : public Storage {
 public:
  PinnedStorage(void* data, int64_t bytes) : Storage(data, bytes, Device{}) {}
  ~PinnedStorage() override { cudaFreeHost(data()); }
};

}  // namespace

std::shared_ptr<Storage> AllocatePinned(int64_t bytes) {
  void* data = nullptr;
  if (cudaHostAlloc(&data, std::max<int64_t>(bytes, 1), cudaHostAllocPortable) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  return std::make_shared<PinnedStorage>(data, bytes);
}

StreamCopies::StreamCopies(std::span<const Tensor> values, std::span<const Tensor> hosts,
                           cudaStream_t kernels, cudaStream_t copies)
    : values_(values.begin(), values.end()), hosts_(hosts.begin(), hosts.end()) {
  // Whoever waits sleeps: a save's thread is not to take a core from the training.
  MNEMO_CUDA(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming | cudaEventBlockingSync));
  try {
    MNEMO_CUDA(cudaEventRecord(done_, kernels));
    MNEMO_CUDA(cudaStreamWaitEvent(copies, done_));
    for (size_t i = 0; i < values_.size(); ++i) {
      if (values_[i].bytes() == 0) continue;
      MNEMO_CUDA(cudaMemcpyAsync(hosts_[i].raw(), values_[i].raw(), values_[i].bytes(),
                                 cudaMemcpyDeviceToHost, copies));
    }
    MNEMO_CUDA(cudaEventRecord(done_, copies));
  } catch (...) {
    cudaStreamSynchronize(copies);  // those that were queued
    cudaEventDestroy(done_);
    throw;
  }
}

StreamCopies::~StreamCopies() {
  cudaEventSynchronize(done_);
  cudaEventDestroy(done_);
}

void StreamCopies::Wait() const { MNEMO_CUDA(cudaEventSynchronize(done_)); }

}  // namespace mnemo::cuda
