#include <fmt/format.h>

#include <memory>
#include <string>

#include "src/cli/command.h"
#include "src/cli/config_flags.h"
#include "src/cli/plan_flags.h"
#include "src/core/status.h"
#include "src/data/token_set.h"
#include "src/job/training_run.h"
#include "src/model/config_check.h"
#include "src/parallel/plan.h"

namespace mnemo {
namespace {

// The tokenizer decides the vocabulary where the configuration leaves it open. Without shards the
// bytes tokenizer is assumed, and said to be.
absl::StatusOr<ShardTokenizer> TokenizerFor(const v1::RunConfig& written) {
  const auto& shards = written.data().shards();
  if (!shards.empty()) {
    MNEMO_ASSIGN_OR_RETURN(const auto set,
                           TokenSet::Open({shards.begin(), shards.end()}, ShardRole::kTraining));
    return set->tokenizer();
  }
  if (written.model().vocabulary() > 0) {
    ShardTokenizer any;
    any.vocabulary = written.model().vocabulary();
    return any;
  }
  ShardTokenizer bytes = MakeBytesTokenizer()->description();
  fmt::print(
      "vocabulary {}, the bytes tokenizer's: name --shards or --set model.vocabulary=N for "
      "another\n",
      bytes.vocabulary);
  return bytes;
}

struct PlanCommand {
  ConfigFlags config;
  PlanFlags plan;
};

absl::Status PrintPlanOf(const PlanCommand& flags) {
  const std::string& path = flags.config.path;
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig written, flags.config.Load());
  MNEMO_RETURN_IF_ERROR(CheckConfig(written, path));
  MNEMO_ASSIGN_OR_RETURN(const ShardTokenizer tokenizer, TokenizerFor(written));
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig config, ResolveConfig(written, path, tokenizer));
  MNEMO_ASSIGN_OR_RETURN(const v1::Plan plan, flags.plan.Plan(config, path));
  fmt::print("{}", PrintPlan(plan));
  return absl::OkStatus();
}

}  // namespace

void AddPlanCommand(CLI::App& app, Action& chosen) {
  auto flags = std::make_shared<PlanCommand>();
  CLI::App* command = app.add_subcommand(
      "plan",
      "Say what a run would need, without running it: how ranks share it, parameters, tokens a "
      "step, memory, work.");
  flags->config.AddTo(*command);
  flags->plan.AddTo(*command, "--ranks");
  command->callback([&chosen, flags] { chosen = [flags] { return PrintPlanOf(*flags); }; });
}

}  // namespace mnemo
