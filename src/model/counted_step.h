// A step on a device that only counts (src/core/counting_backend.h): what memory it takes, in
// milliseconds, without a GPU.
#pragma once

#include <cstdint>

#include "mnemo/v1/config.pb.h"
#include "src/model/spec.h"

namespace mnemo {

// Bytes beyond the parameters and their gradients.
struct CountedBytes {
  int64_t kept = 0;  // between the forward and the backward pass
  int64_t peak = 0;
  int64_t held = 0;  // by the CPU's allocator, at the end
};

// Runs a step of one micro-batch, of so many layers of `whole` and slices of `config`, which is
// effective. On a GPU: an H100, with all kernels that the build has.
CountedBytes CountStep(const v1::RunConfig& config, const ModelSpec& whole, int layers,
                       int64_t slices);

}  // namespace mnemo
