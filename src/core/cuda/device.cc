#include "src/core/cuda/device.h"

#include <cuda_runtime.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "src/core/cuda/check.h"
#include "src/core/cuda/device_facts.h"
#include "src/core/status.h"

namespace mnemo::cuda {
namespace {

// What the build was made for, such as "80;90a".
std::vector<std::string> Architectures() {
  return absl::StrSplit(MNEMO_CUDA_ARCHITECTURES_TEXT, ';', absl::SkipEmpty());
}

// Once, before the first call of the driver.
void LoadEagerly() {
  static const int done = setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  (void)done;
}

// What is known of GPU `index` without throwing.
DeviceFacts Look(int index) {
  LoadEagerly();
  DeviceFacts facts;
  facts.index = index;
  if (cudaDriverGetVersion(&facts.driver) != cudaSuccess) facts.driver = 0;
  if (cudaRuntimeGetVersion(&facts.runtime) != cudaSuccess) facts.runtime = CUDART_VERSION;
  if (facts.driver / 1000 < facts.runtime / 1000) return facts;
  const cudaError_t status = cudaGetDeviceCount(&facts.count);
  if (status != cudaSuccess) {
    facts.count = 0;
    cudaGetLastError();
    if (status != cudaErrorNoDevice) {
      throw TensorError(FailedPrecondition(
          "device cuda:{} cannot be opened: {} ({}); look at nvidia-smi, or run with "
          "execution.device: CPU",
          index, cudaGetErrorString(status), cudaGetErrorName(status)));
    }
  }
  if (index < 0 || index >= facts.count) return facts;
  cudaDeviceProp properties;
  MNEMO_CUDA(cudaGetDeviceProperties(&properties, index));
  facts.name = properties.name;
  facts.major = properties.major;
  facts.minor = properties.minor;
  return facts;
}

}  // namespace

DeviceProperties OpenDevice(int index) {
  const DeviceFacts facts = Look(index);
  const absl::Status status = CheckDevice(facts, Architectures());
  if (!status.ok()) throw TensorError(status);
  const cudaError_t opened = cudaSetDevice(index);
  if (opened != cudaSuccess) {
    cudaGetLastError();
    throw TensorError(FailedPrecondition(
        "device cuda:{} ({}) cannot be used: {}; is another process using it alone (nvidia-smi, "
        "compute mode)?",
        index, facts.name, cudaGetErrorString(opened)));
  }
  DeviceProperties result;
  result.major = facts.major;
  result.minor = facts.minor;
  MNEMO_CUDA(
      cudaDeviceGetAttribute(&result.multiprocessors, cudaDevAttrMultiProcessorCount, index));
  return result;
}

int DeviceCount() {
  LoadEagerly();
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

}  // namespace mnemo::cuda
