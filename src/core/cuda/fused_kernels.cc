#include "src/core/cuda/fused_kernels.h"

#include <mutex>

#include "src/core/cuda/cross_entropy.h"
#include "src/core/cuda/gates.h"
#include "src/core/cuda/layers_op.h"
#ifdef MNEMO_HAS_CUDNN
#include "src/core/cuda/attention.h"
#endif
#ifdef MNEMO_HAS_MEMORY_KERNELS
#include "src/core/cuda/memory_scan_op.h"
#endif

namespace mnemo::cuda {

void RegisterFusedKernels([[maybe_unused]] int major, [[maybe_unused]] int minor) {
  static std::once_flag once;
  std::call_once(once, [&] {
    RegisterLayers();
    RegisterCrossEntropy();
    RegisterCrossEntropyGradient();
    RegisterGates();
#ifdef MNEMO_HAS_CUDNN
    RegisterAttention();
#endif
#ifdef MNEMO_HAS_MEMORY_KERNELS
    // Their matrix instructions exist on this one architecture.
    if (major == 9 && minor == 0) RegisterMemoryScan();
#endif
  });
}

}  // namespace mnemo::cuda
