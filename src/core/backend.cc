#include "src/core/backend.h"

namespace mnemo {

Backend& Backend::For(Device device) {
  return device.type == DeviceType::kCpu ? CpuBackend() : CudaBackend(device.index);
}

}  // namespace mnemo
