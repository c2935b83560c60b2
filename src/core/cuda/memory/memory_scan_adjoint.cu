// Rules without options.
#include "src/core/cuda/memory/memory_scan_adjoint_kernel.cuh"

namespace mnemo::memory {

void launch_scan_adjoint(const CommonParams& p, const MemoryScanCarry& in,
                         const MemoryScanCarry& out, const Rows& dv, const Kept& kept,
                         float* norm_parts, bool first, cudaStream_t stream) {
  if (p.options.on) {
    launch_scan_adjoint_options(p, in, out, dv, kept, norm_parts, first, stream);
  } else {
    launch<false>({p, in, out, dv, kept, norm_parts, first}, stream);
  }
}

}  // namespace mnemo::memory
