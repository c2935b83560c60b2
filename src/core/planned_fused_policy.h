// Running fused ops to see what they would take, under the policy of a run to come.
#pragma once

#include "src/core/fused_op.h"

namespace mnemo {

// While it lives, `policy` is the calling thread's instead of the process's, and what its fused ops
// do is not counted.
class PlannedFusedPolicy {
 public:
  explicit PlannedFusedPolicy(FusedPolicy policy);
  ~PlannedFusedPolicy();
  PlannedFusedPolicy(const PlannedFusedPolicy&) = delete;
  PlannedFusedPolicy& operator=(const PlannedFusedPolicy&) = delete;

 private:
  FusedPolicy policy_;
  const FusedPolicy* before_;
};

}  // namespace mnemo
