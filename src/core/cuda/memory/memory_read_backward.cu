// Rules without options.
#include "src/core/cuda/memory/memory_read_backward.cuh"

namespace mnemo::memory {

void launch_read_backward(const CommonParams& p, const Rows& dy, const Rows& dq, const Kept& kept,
                          cudaStream_t stream) {
  if (p.options.on) {
    launch_read_backward_options(p, dy, dq, kept, stream);
  } else {
    launch<false>({p, dy, dq, kept}, stream);
  }
}

}  // namespace mnemo::memory
