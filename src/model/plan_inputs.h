// The sizes that the planner needs, from a run configuration.
#pragma once

#include "mnemo/v1/config.pb.h"
#include "src/model/spec.h"
#include "src/parallel/plan.h"

namespace mnemo {

// `config` is effective and its vocabulary is set. Tapes and work space are found by running a few
// units on the device that only counts (src/core/counting_backend.h), so they follow the code as it
// is; fused kernels of another device may need less.
PlanInputs MakePlanInputs(const v1::RunConfig& config);

// MakePlan(MakePlanInputs(config)).
v1::Plan PlanRun(const v1::RunConfig& config);

}  // namespace mnemo
