// The rate that matrix products reach on this device: what a run's speed is measured against.
#pragma once

#include "src/core/tensor.h"

namespace mnemo {

// FLOP/s (multiply-add = 2) of the fastest of repeated square products, measured for about
// `seconds` with the threads of the calling thread. 0 if a product takes no measurable time.
double MeasureGemmCeiling(DType dtype, Device device, double seconds = 0.3);

}  // namespace mnemo
