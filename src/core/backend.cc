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

}  // namespace mnemo
