// Copies from a GPU to page-locked memory of the host, on a stream of their own.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <span>
#include <vector>

#include "src/core/backend.h"

namespace mnemo::cuda {

// Page-locked memory, or null where the driver or the system gives none of that size.
std::shared_ptr<Storage> AllocatePinned(int64_t bytes);

// The copies are queued on `copies` when it is made, behind what `kernels` has to do at that time.
// All calls on a thread whose current GPU is that of the streams, but Wait() and the destructor.
class StreamCopies final : public HostCopies {
 public:
  StreamCopies(std::span<const Tensor> values, std::span<const Tensor> hosts, cudaStream_t kernels,
               cudaStream_t copies);
  ~StreamCopies() override;
  StreamCopies(const StreamCopies&) = delete;
  void Wait() const override;

 private:
  std::vector<Tensor> values_, hosts_;  // in use until the end
  cudaEvent_t done_ = nullptr;
};

}  // namespace mnemo::cuda
