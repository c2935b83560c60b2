#include "src/core/backend.h"

#include "src/core/counting_backend.h"

namespace mnemo {

Backend& Backend::For(Device device) {
  if (device.type == DeviceType::kCpu) return CpuBackend();
  if (device.type == kCountingDeviceType || device.type == kCountingGpuType) {
    return CountingBackend(device);
  }
  return CudaBackend(device.index);
}

std::shared_ptr<Storage> Backend::AllocateOnHost(int64_t bytes) {
  return CpuBackend().Allocate(bytes);
}

std::unique_ptr<HostCopies> Backend::StartCopiesToHost(std::span<const Tensor> values,
                                                       std::span<const Tensor> hosts) {
  for (size_t i = 0; i < values.size(); ++i) CopyToHost(values[i], hosts[i].raw());
  return nullptr;
}

}  // namespace mnemo
