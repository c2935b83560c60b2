#include "src/model/execution.h"

#include "src/core/fused_op.h"
#include "src/core/thread_pool.h"

namespace mnemo {

DType ComputeDType(const v1::ExecutionConfig& execution) {
  switch (execution.precision()) {
    case v1::F64:
      return DType::kF64;
    case v1::BF16:
      return DType::kBF16;
    default:
      return DType::kF32;
  }
}

Device ComputeDevice(const v1::ExecutionConfig& execution) {
  return {execution.device() == v1::CUDA ? DeviceType::kCuda : DeviceType::kCpu, 0};
}

Rematerialization RematerializationOf(v1::Rematerialize policy) {
  switch (policy) {
    case v1::KEEP_ALL:
      return Rematerialization::kKeepAll;
    case v1::SLICES:
      return Rematerialization::kSlices;
    default:
      return Rematerialization::kUnits;
  }
}

bool SavesBehindTraining(const v1::TrainConfig& train) {
  return train.checkpoint_async() &&
         (train.checkpoint_every() > 0 || train.checkpoint_minutes() > 0);
}

void ApplyExecution(const v1::ExecutionConfig& execution) {
  if (execution.threads() > 0) SetThreadsForThisThread(execution.threads());
  SetFusedPolicy({.enabled = execution.fused(),
                  .strict = execution.strict_fused(),
                  .deterministic = execution.deterministic()});
}

}  // namespace mnemo
