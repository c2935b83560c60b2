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

// Whether checkpoints on the way are written behind the training, from a copy in host memory. Those
// of a run that saves only at its end and when it is asked to are not: no memory is planned for a
// copy. `train` is effective.
bool SavesBehindTraining(const v1::TrainConfig& train);

}  // namespace mnemo
