// The sizes that the planner needs, from a run configuration.
#pragma once

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "src/model/spec.h"
#include "src/parallel/plan.h"

namespace mnemo {

// `config` is effective and its vocabulary is set. Tapes and work space are found by running a few
// units on a device that only counts (src/core/counting_backend.h), so they follow the code as it
// is, for a GPU without one: an H100's, with all kernels that the build has. InvalidArgument where
// parallel.tp does not suit the model.
absl::StatusOr<PlanInputs> MakePlanInputs(const v1::RunConfig& config);

// ChoosePlan(MakePlanInputs(config)): a pure function, so that every process of one build finds the
// same plan and digest. The mesh is the configuration's where that gives it. Errors name no file.
absl::StatusOr<v1::Plan> PlanRun(const v1::RunConfig& config, int ranks = 1,
                                 const PlanOptions& options = {});

}  // namespace mnemo
