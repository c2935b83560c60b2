// The kernels of the fused ops "rms_norm", "swiglu", "conv_silu_norm" and "rotate" on GPUs.
#pragma once

namespace mnemo::cuda {

void RegisterLayers();

}  // namespace mnemo::cuda
