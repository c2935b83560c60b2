// The flags with which commands plan a run for a number of ranks.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/plan.pb.h"

namespace mnemo {

struct PlanFlags {
  int ranks = 0;  // 0: as many as the given axes of the mesh
  std::optional<double> memory_gib;

  // Declares the number of ranks under the name given, and --memory. `this` outlives the parsing.
  void AddTo(CLI::App& command, const std::string& ranks_flag);
  int RanksOf(const v1::RunConfig& config) const;
  // The plan of an effective configuration. `name` heads its problems.
  absl::StatusOr<v1::Plan> Plan(const v1::RunConfig& config, const std::string& name) const;
};

}  // namespace mnemo
