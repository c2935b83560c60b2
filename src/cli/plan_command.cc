#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>

#include "src/cli/command.h"
#include "src/cli/config_flags.h"
#include "src/core/status.h"
#include "src/data/token_set.h"
#include "src/job/training_run.h"
#include "src/model/config_check.h"
#include "src/model/plan_inputs.h"
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

struct PlanFlags {
  ConfigFlags config;
  int ranks = 0;
  std::optional<double> memory_gib;
};

absl::Status PrintPlanOf(const PlanFlags& flags) {
  const std::string& path = flags.config.path;
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig written, flags.config.Load());
  MNEMO_RETURN_IF_ERROR(CheckConfig(written, path));
  MNEMO_ASSIGN_OR_RETURN(const ShardTokenizer tokenizer, TokenizerFor(written));
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig config, ResolveConfig(written, path, tokenizer));
  PlanOptions options;
  if (flags.memory_gib) {
    options.memory_limit = static_cast<int64_t>(*flags.memory_gib * (int64_t{1} << 30));
  }
  const int ranks = flags.ranks > 0 ? flags.ranks : FewestRanks(config.parallel());
  absl::StatusOr<v1::Plan> plan = PlanRun(config, ranks, options);
  if (!plan.ok()) {
    return absl::Status(plan.status().code(),
                        fmt::format("{}: {}", path, std::string(plan.status().message())));
  }
  fmt::print("{}", PrintPlan(*plan));
  return absl::OkStatus();
}

}  // namespace

void AddPlanCommand(CLI::App& app, Action& chosen) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app.add_subcommand(
      "plan",
      "Say what a run would need, without running it: how ranks share it, parameters, tokens a "
      "step, memory, work.");
  flags->config.AddTo(*command);
  command
      ->add_option("--ranks", flags->ranks,
                   "Ranks to share the work; 0: parallel.dp x sp x tp of the configuration")
      ->check(CLI::Range(0, kMostRanks))
      ->capture_default_str();
  command
      ->add_option("--memory", flags->memory_gib,
                   "GiB of one rank's device; a mesh whose fullest rank needs more is not chosen")
      ->check(CLI::PositiveNumber);
  command->callback([&chosen, flags] { chosen = [flags] { return PrintPlanOf(*flags); }; });
}

}  // namespace mnemo
