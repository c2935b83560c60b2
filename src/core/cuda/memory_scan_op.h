// The kernel of the fused op "memory_scan" on Hopper GPUs: memory/memory_scan.h behind tensors.
#pragma once

#include <span>

#include "src/core/fused/fused_ops.h"

namespace mnemo::cuda {

// Whether the kernels cover a call: bf16 tokens, whole chunks, a rule and shape that they know,
// and no resets. Pure function of shapes, dtypes and attributes.
bool AcceptsMemoryScan(std::span<const Tensor> inputs, const MemoryScanAttributes& attributes);

void RegisterMemoryScan();

}  // namespace mnemo::cuda
