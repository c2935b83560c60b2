#include "src/core/cuda/cuda_backend.h"
#include "src/core/cuda/gates.h"
#include "src/core/cuda/layer_kernels.h"

namespace mnemo::cuda {
namespace {

class CudaGateKernels final : public GateKernels {
 public:
  void Split(Device device, const GateShape& shape, const GateSplitCall& call) override {
    CudaScratch scratch(DeviceOf(device));
    SplitGateWeights(scratch.launch(), shape, call);
  }
  void Values(Device device, const GateShape& shape, const GateValuesCall& call) override {
    CudaScratch scratch(DeviceOf(device));
    GateValues(scratch.launch(), shape, call);
  }
  void Gradients(Device device, const GateShape& shape, const GateGradientsCall& call) override {
    CudaScratch scratch(DeviceOf(device));
    GateGradients(scratch.launch(), shape, call);
  }
  void Sum(Device device, const float* shares, int64_t rows, int64_t columns, float* out) override {
    CudaScratch scratch(DeviceOf(device));
    SumPartials(scratch.launch(), shares, rows, columns, out);
  }

 private:
  static CudaDevice& DeviceOf(Device device) {
    return static_cast<CudaDevice&>(Backend::For(device));
  }
};

}  // namespace

void RegisterGates() {
  static CudaGateKernels kernels;
  GatesOp().Register(DeviceType::kCuda, GatesKernel(kernels));
}

}  // namespace mnemo::cuda
