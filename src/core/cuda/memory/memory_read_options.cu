// Rules with options.
#include "src/core/cuda/memory/memory_read_kernel.cuh"

namespace mnemo::memory {

void launch_read_options(const CommonParams& p, const Rows& y, cudaStream_t stream) {
  launch<false, true>({p, y, {nullptr}}, stream);
}

void launch_read_keeping_options(const CommonParams& p, const Rows& y, const Kept& kept,
                                 cudaStream_t stream) {
  launch<true, true>({p, y, kept}, stream);
}

}  // namespace mnemo::memory
