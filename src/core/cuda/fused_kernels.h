// Which kernels of fused ops a GPU gets.
#pragma once

namespace mnemo::cuda {

// Registers the kernels that were built and that run on this compute capability; once for the
// process, whatever the number of GPUs. Thread-safe.
void RegisterFusedKernels(int major, int minor);

}  // namespace mnemo::cuda
