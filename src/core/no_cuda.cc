// Stands in for the CUDA backend where the build has none.
#include "src/core/backend.h"
#include "src/core/device_memory.h"
#include "src/core/trace_range.h"

namespace mnemo {

Backend& CudaBackend(int index) {
  throw TensorError(
      FailedPrecondition("device cuda:{} was asked for, but this program was built without CUDA; "
                         "build it with cmake --preset cuda, or run with execution.device: CPU",
                         index));
}

std::optional<DeviceMemory> MemoryOf(Device device) {
  if (device.type == DeviceType::kCuda) CudaBackend(device.index);
  return std::nullopt;
}

void ReserveMemory(Device device, int64_t) {
  if (device.type == DeviceType::kCuda) CudaBackend(device.index);
}

void BeginTraceRange(const char*) {}
void EndTraceRange() {}

}  // namespace mnemo
