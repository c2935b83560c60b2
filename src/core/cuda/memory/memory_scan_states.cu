// Rules without options.
#include "src/core/cuda/memory/memory_scan_states_kernel.cuh"

namespace mnemo::memory {

void launch_scan_states(const CommonParams& p, const MemoryScanCarry& in,
                        const MemoryScanCarry& out, cudaStream_t stream) {
  if (p.options.on) {
    launch_scan_states_options(p, in, out, stream);
  } else {
    launch<false>({p, in, out}, stream);
  }
}

}  // namespace mnemo::memory
