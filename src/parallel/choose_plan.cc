#include <algorithm>
#include <cctype>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "src/core/status.h"
#include "src/parallel/plan.h"
#include "src/parallel/simulate.h"

namespace mnemo {
namespace {

// So many numbers of ranks are tried in search of one that would do.
constexpr int kMostTried = 1024;
// Wavefronts of more units are not simulated; the closed form says the same.
constexpr int64_t kMostSimulatedUnits = int64_t{1} << 20;

std::string Wanted(const v1::ParallelConfig& wanted) {
  return fmt::format("parallel.dp = {}, sp = {}, tp = {} (0: open)", wanted.dp(), wanted.sp(),
                     wanted.tp());
}

// The meshes of so many ranks that keep the axes given.
std::vector<Mesh> Candidates(const v1::ParallelConfig& wanted, int tp, int ranks) {
  std::vector<Mesh> meshes;
  for (int dp = ranks; dp >= 1; --dp) {
    if (ranks % (int64_t{dp} * tp) != 0 || (wanted.dp() > 0 && wanted.dp() != dp)) continue;
    const int sp = ranks / tp / dp;
    if (wanted.sp() == 0 || wanted.sp() == sp) meshes.push_back({dp, sp, tp});
  }
  return meshes;
}

// Less is better.
auto Rank(const v1::Plan& plan) {
  return std::tuple(plan.schedule().step_ticks(), plan.memory().total(), plan.mesh().sp());
}

std::string Kind(std::string text) {
  std::erase_if(text, [](unsigned char c) { return std::isdigit(c) != 0; });
  return text;
}

struct Search {
  std::optional<v1::Plan> best;
  // The last refusal of each kind, by its words without numbers, and how many there were. The last
  // mesh tried has the most sp, and so needs the least memory.
  std::map<std::string, std::pair<std::string, int>> refusals;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;  // of the last refusal
};

Search SearchMeshes(const PlanInputs& inputs, const v1::ParallelConfig& wanted, int ranks,
                    const PlanOptions& options) {
  Search search;
  for (const Mesh& mesh : Candidates(wanted, inputs.tp, ranks)) {
    absl::StatusOr<v1::Plan> plan = MakePlan(inputs, mesh, options);
    if (!plan.ok()) {
      search.code = plan.status().code();
      const std::string why(plan.status().message());
      auto& [told, count] = search.refusals[Kind(why)];
      told = fmt::format("{}: {}", ToString(mesh), why);
      ++count;
    } else if (!search.best || Rank(*plan) < Rank(*search.best)) {
      search.best = *std::move(plan);
    }
  }
  return search;
}

// The most ranks below `ranks` that have a legal mesh; 0 if none was found.
int FewerRanks(const PlanInputs& inputs, const v1::ParallelConfig& wanted, int ranks,
               const PlanOptions& options) {
  // More than the work has parts for is never legal.
  const int64_t slices = (inputs.sequence_length + inputs.slice - 1) / inputs.slice;
  const int64_t most = slices * inputs.accumulation * inputs.micro_batches * inputs.tp;
  const int begin = static_cast<int>(std::min<int64_t>(ranks - 1, most));
  for (int fewer = begin; fewer >= std::max(1, begin - kMostTried); --fewer) {
    for (const Mesh& mesh : Candidates(wanted, inputs.tp, fewer)) {
      if (MakePlan(inputs, mesh, options).ok()) return fewer;
    }
  }
  return 0;
}

void SetSimulatedBusy(v1::Plan& plan) {
  const ScheduleShape shape = ShapeOf(plan);
  if (shape.slices * shape.layers * shape.micro_batches > kMostSimulatedUnits) return;
  SimulationOptions options;
  options.slots = {plan.schedule().wrap_slots(), plan.schedule().other_slots()};
  plan.mutable_schedule()->set_busy(Simulate(shape, options).busy);
}

}  // namespace

absl::StatusOr<v1::Plan> ChoosePlan(const PlanInputs& inputs, const v1::ParallelConfig& wanted,
                                    int ranks, const PlanOptions& options) {
  if (ranks < 1) return InvalidArgument("{} ranks: at least one is needed", ranks);
  Search search = SearchMeshes(inputs, wanted, ranks, options);
  if (search.best) {
    SetSimulatedBusy(*search.best);
    return *std::move(search.best);
  }
  if (search.refusals.empty()) {
    const int fewest = FewestRanks(wanted);
    const bool open = wanted.dp() == 0 || wanted.sp() == 0;
    return InvalidArgument("{} ranks do not suit {}: start {}{}, or change the mesh", ranks,
                           Wanted(wanted), open ? "a multiple of " : "", fewest);
  }
  std::string tried;
  for (const auto& [kind, refusal] : search.refusals) {
    tried += fmt::format("{}{}", tried.empty() ? "" : "; ", refusal.first);
    if (refusal.second > 1) tried += fmt::format(" (and {} meshes alike)", refusal.second - 1);
  }
  const int fewer = FewerRanks(inputs, wanted, ranks, options);
  return absl::Status(
      search.code,
      fmt::format("no mesh of {} ranks is possible with {}: {}{}", ranks, Wanted(wanted), tried,
                  fewer > 0 ? fmt::format("; {} ranks would do", fewer) : ""));
}

}  // namespace mnemo
