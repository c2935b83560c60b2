// Rules without options.
#include "src/core/cuda/memory/memory_read_kernel.cuh"

namespace mnemo::memory {

void launch_read(const CommonParams& p, const Rows& y, cudaStream_t stream) {
  if (p.options.on) {
    launch_read_options(p, y, stream);
  } else {
    launch<false, false>({p, y, {nullptr}}, stream);
  }
}

void launch_read_keeping(const CommonParams& p, const Rows& y, const Kept& kept,
                         cudaStream_t stream) {
  if (p.options.on) {
    launch_read_keeping_options(p, y, kept, stream);
  } else {
    launch<true, false>({p, y, kept}, stream);
  }
}

}  // namespace mnemo::memory
