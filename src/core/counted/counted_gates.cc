#include "src/core/counted/counted_kernels.h"
#include "src/core/counting_backend.h"
#include "src/core/cuda/gates.h"

namespace mnemo {
namespace {

class CountedGates final : public cuda::GateKernels {
 public:
  void Split(Device, const cuda::GateShape&, const cuda::GateSplitCall&) override {}
  void Values(Device, const cuda::GateShape&, const cuda::GateValuesCall&) override {}
  void Gradients(Device, const cuda::GateShape&, const cuda::GateGradientsCall&) override {}
  void Sum(Device, const float*, int64_t, int64_t, float*) override {}
};

}  // namespace

void RegisterCountedGates() {
  static CountedGates kernels;
  GatesOp().Register(kCountingGpuType, cuda::GatesKernel(kernels));
}

}  // namespace mnemo
