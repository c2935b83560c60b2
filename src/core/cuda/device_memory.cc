#include "src/core/device_memory.h"

#include "src/core/cuda/check.h"
#include "src/core/cuda/cuda_backend.h"

namespace mnemo {
namespace {

CudaDevice& Open(Device device) { return static_cast<CudaDevice&>(Backend::For(device)); }

}  // namespace

std::optional<DeviceMemory> MemoryOf(Device device) {
  if (device.type != DeviceType::kCuda) return std::nullopt;
  CudaDevice& gpu = Open(device);
  gpu.Use();
  size_t free = 0, total = 0;
  MNEMO_CUDA(cudaMemGetInfo(&free, &total));
  const int64_t unused = gpu.arena().held_bytes() - gpu.arena().use().current_bytes;
  return DeviceMemory{static_cast<int64_t>(total), static_cast<int64_t>(free) + unused};
}

void ReserveMemory(Device device, int64_t bytes) {
  if (device.type != DeviceType::kCuda) return;
  CudaDevice& gpu = Open(device);
  gpu.Use();
  gpu.arena().Reserve(bytes);
}

}  // namespace mnemo
