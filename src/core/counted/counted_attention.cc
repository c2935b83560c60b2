#include "src/core/counted/counted_kernels.h"
#include "src/core/counting_backend.h"
#include "src/core/cuda/attention.h"

namespace mnemo {
namespace {

class CountedCalls final : public cuda::AttentionCalls {
 public:
  void Forward(Device, const cuda::SdpaShape&, const cuda::SdpaForwardCall&) override {}
  void Backward(Device device, const cuda::SdpaShape& shape,
                const cuda::SdpaBackwardCall&) override {
    CountedScratch(device).Take(cuda::SdpaBackwardWorkspace(shape));
  }
  void Merge(Device, const cuda::MergeCall&) override {}
};

}  // namespace

void RegisterCountedAttention() {
  static CountedCalls calls;
  AttentionOp().Register(kCountingGpuType, cuda::AttentionKernel(calls));
}

}  // namespace mnemo
