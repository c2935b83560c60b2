#include "src/cli/plan_flags.h"

#include "src/core/status.h"
#include "src/model/plan_inputs.h"
#include "src/parallel/plan.h"

namespace mnemo {

void PlanFlags::AddTo(CLI::App& command, const std::string& ranks_flag) {
  command
      .add_option(ranks_flag, ranks,
                  "Ranks that share the work; 0: parallel.dp x sp x tp of the configuration")
      ->check(CLI::Range(0, kMostRanks))
      ->capture_default_str();
  command
      .add_option("--memory", memory_gib,
                  "GiB for one rank; a mesh whose fullest rank needs more is not chosen. Default: "
                  "no limit")
      ->check(CLI::PositiveNumber)
      ->type_name("GIB");
}

int PlanFlags::RanksOf(const v1::RunConfig& config) const {
  return ranks > 0 ? ranks : FewestRanks(config.parallel());
}

absl::StatusOr<v1::Plan> PlanFlags::Plan(const v1::RunConfig& config,
                                         const std::string& name) const {
  PlanOptions options;
  if (memory_gib) options.memory_limit = static_cast<int64_t>(*memory_gib * (int64_t{1} << 30));
  absl::StatusOr<v1::Plan> plan = PlanRun(config, RanksOf(config), options);
  if (plan.ok()) return plan;
  return absl::Status(plan.status().code(),
                      fmt::format("{}: {}", name, std::string(plan.status().message())));
}

}  // namespace mnemo
