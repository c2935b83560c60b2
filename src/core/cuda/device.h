// Opening a GPU.
#pragma once

namespace mnemo::cuda {

struct DeviceProperties {
  int multiprocessors = 0;
  int major = 0, minor = 0;
};

// Makes GPU `index` ready for this process. Throws TensorError where there is no driver or one too
// old, no such GPU, or a GPU whose architecture is not compiled in (device_facts.h).
//
// Kernels of this program and of the libraries are loaded at once, not at their first call, which
// would wait for the device and take memory from it in the middle of a step: the environment
// variable CUDA_MODULE_LOADING is set to EAGER unless the user has set it. LAZY starts faster.
DeviceProperties OpenDevice(int index);

// GPUs that this process sees; 0 without a driver. Never throws.
int DeviceCount();

}  // namespace mnemo::cuda
