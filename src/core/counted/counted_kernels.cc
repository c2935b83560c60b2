#include "src/core/counted/counted_kernels.h"

#include <mutex>

namespace mnemo {

// A build that has CUDA but lacks a kernel composes the op, and plans so. One without CUDA plans
// for a build that has them all.
void RegisterCountedKernels() {
  static std::once_flag once;
  std::call_once(once, [] {
    RegisterCountedLayers();
    RegisterCountedCrossEntropy();
    RegisterCountedGates();
#ifndef MNEMO_NO_CUDNN
    RegisterCountedAttention();
#endif
#ifndef MNEMO_NO_MEMORY_KERNELS
    RegisterCountedMemoryScan();
#endif
  });
}

namespace {

// At the program's start, when no thread looks for kernels yet.
[[maybe_unused]] const bool registered = (RegisterCountedKernels(), true);

}  // namespace
}  // namespace mnemo
