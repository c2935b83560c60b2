#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "src/cli/bench_command.h"
#include "src/cli/config_flags.h"
#include "src/core/status.h"
#include "src/data/token_set.h"
#include "src/job/long_bench.h"
#include "src/job/training_run.h"
#include "src/parallel/mpi/session.h"
#include "src/parallel/plan.h"

namespace mnemo {
namespace {

// How far the fullest rank may be from the plan, and a gradient above the median.
constexpr double kMemoryTolerance = 0.1;
constexpr double kGradientLimit = 100;

struct LongFlags {
  ConfigFlags config;
  std::string json;
};

nlohmann::json ToJson(const v1::RunConfig& config, const LongBenchResult& result) {
  const v1::StepShape& step = result.plan.step();
  const v1::MemoryEstimate& memory = result.plan.memory();
  nlohmann::json json = {
      {"bench", "long"},
      {"block", v1::Block_Name(config.model().block())},
      {"tokens", step.tokens()},
      {"slice", step.slice()},
      {"mesh", ToString(MeshOf(result.plan))},
      {"seconds", result.seconds},
      {"loss", result.step.loss()},
      {"gradient_norm", result.step.gradient_norm()},
      {"peak_over_plan", result.PeakOverPlan()},
      {"planned_bytes", memory.total()},
      {"planned_process_bytes", memory.process()},
      {"planned_carry_bytes_per_hop", memory.carry_bytes_per_hop()},
      {"busy", result.busy},
      {"planned_busy", result.plan.schedule().busy()},
      {"position_gradient", {{"median", result.all.median}, {"largest", result.all.largest}}},
      {"median_carry_adjoint", result.all.carry}};
  for (const RankMemory& rank : result.ranks) {
    json["ranks"].push_back({{"resident_before_bytes", rank.resident_before},
                             {"resident_peak_bytes", rank.resident_peak},
                             {"tensor_peak_bytes", rank.tensor_peak}});
  }
  for (const SliceGradient& slice : result.slices) {
    json["slices"].push_back({slice.median, slice.largest, slice.carry});
  }
  return json;
}

void Print(const LongBenchResult& result) {
  const v1::MemoryEstimate& memory = result.plan.memory();
  fmt::print("{}", PrintPlan(result.plan));
  fmt::print("one step of {} tokens took {:.1f} s, {:.0f} tokens/s; loss {:.4f}\n",
             result.plan.step().tokens(), result.seconds,
             static_cast<double>(result.plan.step().tokens()) / result.seconds, result.step.loss());
  for (size_t r = 0; r < result.ranks.size(); ++r) {
    const RankMemory& rank = result.ranks[r];
    fmt::print("rank {}: resident {} before, {} at most; {} of tensors\n", r,
               PrintBytes(rank.resident_before), PrintBytes(rank.resident_peak),
               PrintBytes(rank.tensor_peak));
  }
  fmt::print("peak of the fullest rank / plan: {:.3f} of {}\n", result.PeakOverPlan(),
             PrintBytes(memory.total()));
  fmt::print("busy: {:.1f} %, predicted {:.1f} %\n", 100 * result.busy,
             100 * result.plan.schedule().busy());
  fmt::print("gradient by position: median {:.3g}, largest {:.3g} ({:.1f} x)\n", result.all.median,
             result.all.largest, result.all.largest / result.all.median);
  double carry = 0;
  for (const SliceGradient& slice : result.slices) carry = std::max(carry, slice.carry);
  fmt::print("adjoint of the carry by slice: median {:.3g}, largest {:.3g} ({:.1f} x)\n",
             result.all.carry, carry, result.all.carry > 0 ? carry / result.all.carry : 0);
}

// What has to hold of every run.
absl::Status Judge(const LongBenchResult& result) {
  if (!result.finite) return Internal("a gradient is not finite");
  const double limit = kGradientLimit * result.all.median;
  if (!(result.all.largest <= limit)) {
    return Internal("a position's gradient is {:.3g}, more than {} times the median {:.3g}",
                    result.all.largest, kGradientLimit, result.all.median);
  }
  for (const SliceGradient& slice : result.slices) {
    if (slice.carry > kGradientLimit * result.all.carry) {
      return Internal("the adjoint of a carry is {:.3g}, more than {} times the median {:.3g}",
                      slice.carry, kGradientLimit, result.all.carry);
    }
  }
  if (std::abs(result.PeakOverPlan() - 1) > kMemoryTolerance) {
    return Internal("the fullest rank took {:.3f} of the memory planned, {}", result.PeakOverPlan(),
                    PrintBytes(result.plan.memory().total()));
  }
  return absl::OkStatus();
}

absl::Status BenchLong(const LongFlags& flags) {
  MNEMO_ASSIGN_OR_RETURN(const std::unique_ptr<MpiSession> session, MpiSession::Start());
  const bool first = session->rank() == 0;
  if (first) MNEMO_RETURN_IF_ERROR(CheckBenchJson(flags.json));
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig written, flags.config.Load());
  const auto& shards = written.data().shards();
  if (shards.empty()) {
    return InvalidArgument("{}: data.shards is empty: name token shards with --shards",
                           flags.config.path);
  }
  MNEMO_ASSIGN_OR_RETURN(auto tokens,
                         TokenSet::Open({shards.begin(), shards.end()}, ShardRole::kTraining));
  MNEMO_ASSIGN_OR_RETURN(const v1::RunConfig config,
                         ResolveConfig(written, flags.config.path, tokens->tokenizer()));
  MNEMO_ASSIGN_OR_RETURN(const LongBenchResult result,
                         BenchLongSequence(config, std::move(tokens), session->transport()));
  if (first) Print(result);
  if (first) MNEMO_RETURN_IF_ERROR(WriteBenchJson(flags.json, ToJson(config, result)));
  MNEMO_RETURN_IF_ERROR(session->Finish());
  return first ? Judge(result) : absl::OkStatus();
}

}  // namespace

void AddBenchLong(CLI::App& bench, Action& chosen) {
  auto flags = std::make_shared<LongFlags>();
  CLI::App* command = bench.add_subcommand(
      "long",
      "One training step over very long sequences, alone or as the ranks of `mpirun -n N`: time, "
      "the memory of the fullest rank beside the plan's (within 10 %), the busy fraction beside "
      "the prediction, and gradients by position (none above 100 times their median).");
  flags->config.AddTo(*command);
  command->add_option("--json", flags->json, "File to write the results to as well");
  command->callback([&chosen, flags] { chosen = [flags] { return BenchLong(*flags); }; });
}

}  // namespace mnemo
