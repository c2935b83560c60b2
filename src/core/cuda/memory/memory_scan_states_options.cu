// Rules with options.
#include "src/core/cuda/memory/memory_scan_states_kernel.cuh"

namespace mnemo::memory {

void launch_scan_states_options(const CommonParams& p, const MemoryScanCarry& in,
                                const MemoryScanCarry& out, cudaStream_t stream) {
  launch<true>({p, in, out}, stream);
}

}  // namespace mnemo::memory
