// Validation of a run configuration, and the door through which every run takes one.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"

namespace mnemo {

// Checks a configuration as the user wrote it: every field's range, then what must hold between
// fields once the defaults are filled in, stability rules included (docs/numerics.md). All problems
// are reported in one Status, each as "path = value: allowed; what to do". `name` (a file) heads
// the list. Whether this machine has the device is not asked: a run may be planned anywhere.
absl::Status CheckConfig(const v1::RunConfig& written, const std::string& name);

// CheckConfig, then FillDefaults: the configuration to run.
absl::StatusOr<v1::RunConfig> EffectiveConfig(const v1::RunConfig& written,
                                              const std::string& name);

}  // namespace mnemo
