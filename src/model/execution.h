// How a run computes: what ExecutionConfig means to the code.
#pragma once

#include "mnemo/v1/config.pb.h"
#include "src/core/tensor.h"
#include "src/model/unit_runner.h"

namespace mnemo {

// The dtype of activations that a configuration computes with, and where. Parameters, gradients and
// the optimizer's state are of WideType(ComputeDType(execution)), as is what a memory carries on.
DType ComputeDType(const v1::ExecutionConfig& execution);
Device ComputeDevice(const v1::ExecutionConfig& execution);

// train.rematerialize, with its default filled in.
Rematerialization RematerializationOf(v1::Rematerialize policy);

// Sets the number of threads of the calling thread's loops and the process's policy for fused ops.
void ApplyExecution(const v1::ExecutionConfig& execution);

}  // namespace mnemo
