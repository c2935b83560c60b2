// Rules with options.
#include "src/core/cuda/memory/memory_read_backward.cuh"

namespace mnemo::memory {

void launch_read_backward_options(const CommonParams& p, const Rows& dy, const Rows& dq,
                                  const Kept& kept, cudaStream_t stream) {
  launch<true>({p, dy, dq, kept}, stream);
}

}  // namespace mnemo::memory
