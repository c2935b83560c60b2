// A device buffer with its host copy. Only device_case*.cc include this.
#pragma once

#include "tests/bench/memory_scan/device_case.h"

namespace mnemo::memory_bench {

struct DeviceCase::Array {
  std::vector<float> host;
  size_t count;
  bool is_bf16;
  Buffer device;
  Array(size_t n, bool b) : count(n), is_bf16(b), device(n * (b ? 2 : 4)) {}

  void Upload() {
    if (!is_bf16) {
      Check(cudaMemcpy(device.data(), host.data(), count * 4, cudaMemcpyDefault), "upload");
      return;
    }
    std::vector<__nv_bfloat16> rounded(count);
    for (size_t i = 0; i < count; ++i) {
      rounded[i] = __float2bfloat16(host[i]);
      host[i] = __bfloat162float(rounded[i]);
    }
    Check(cudaMemcpy(device.data(), rounded.data(), count * 2, cudaMemcpyDefault), "upload");
  }

  void Download() {
    host.resize(count);
    if (!is_bf16) {
      Check(cudaMemcpy(host.data(), device.data(), count * 4, cudaMemcpyDefault), "download");
      return;
    }
    std::vector<__nv_bfloat16> rounded(count);
    Check(cudaMemcpy(rounded.data(), device.data(), count * 2, cudaMemcpyDefault), "download");
    for (size_t i = 0; i < count; ++i) host[i] = __bfloat162float(rounded[i]);
  }
};

}  // namespace mnemo::memory_bench
