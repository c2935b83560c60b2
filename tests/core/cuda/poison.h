// Filling what a GPU has free, so that tests see what was never written.
#pragma once

#include "src/core/tensor.h"

namespace mnemo::testing {

inline constexpr Device kGpu{DeviceType::kCuda, 0};

// Fills the GPU's free memory with NaN, so that an element that is read before it is written, or
// never written, shows. i32 sees -1.
void PoisonFreeMemory();

}  // namespace mnemo::testing
