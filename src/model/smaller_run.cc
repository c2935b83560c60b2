#include "src/model/smaller_run.h"

#include <fmt/format.h>

#include <functional>
#include <vector>

#include "src/core/config_difference.h"
#include "src/model/config_check.h"
#include "src/model/plan_inputs.h"

namespace mnemo {
namespace {

// Changes the configuration, or says that there is nothing to change.
using Change = std::function<bool(v1::TrainConfig&)>;

bool KeepLess(v1::TrainConfig& train, v1::Rematerialize policy) {
  const auto less = [](v1::Rematerialize kept) {
    return kept == v1::KEEP_ALL ? 0 : kept == v1::SLICES ? 2 : 1;
  };
  if (less(train.rematerialize()) >= less(policy)) return false;
  train.set_rematerialize(policy);
  return true;
}

bool HalveSlice(v1::TrainConfig& train) {
  if (train.slice() % 2 != 0) return false;
  train.set_slice(train.slice() / 2);
  return true;
}

bool HalveSequences(v1::TrainConfig& train) {
  if (train.sequences() % 2 != 0) return false;
  train.set_sequences(train.sequences() / 2);
  train.set_accumulation(train.accumulation() * 2);
  return true;
}

bool HalveMicroBatches(v1::TrainConfig& train) {
  if (train.micro_batches() % 2 != 0) return false;
  train.set_micro_batches(train.micro_batches() / 2);
  train.set_accumulation(train.accumulation() * 2);
  return true;
}

std::vector<Change> Changes(const v1::TrainConfig& train) {
  constexpr int kSliceHalvings = 3;
  std::vector<Change> changes = {[](auto& t) { return KeepLess(t, v1::UNITS); },
                                 [](auto& t) { return KeepLess(t, v1::SLICES); }};
  changes.insert(changes.end(), kSliceHalvings, HalveSlice);
  for (int left = train.sequences(); left > 1; left /= 2) changes.emplace_back(HalveSequences);
  for (int left = train.micro_batches(); left > 1; left /= 2) {
    changes.emplace_back(HalveMicroBatches);
  }
  return changes;
}

std::string Describe(const v1::RunConfig& before, const v1::RunConfig& now) {
  std::string text;
  for (const ConfigDifference& difference : ConfigDifferences(before, now)) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", difference.path, difference.after);
  }
  return text;
}

}  // namespace

std::optional<SmallerRun> FindSmallerRun(const v1::RunConfig& config, int ranks, int64_t limit) {
  std::optional<SmallerRun> smallest;
  v1::RunConfig so_far = config;
  const absl::StatusOr<v1::Plan> whole = PlanRun(config, ranks);
  if (!whole.ok()) return smallest;
  int64_t least = whole->memory().total();
  for (const Change& change : Changes(config.train())) {
    v1::RunConfig changed = so_far;
    if (!change(*changed.mutable_train()) || !CheckConfig(changed, "").ok()) continue;
    const absl::StatusOr<v1::Plan> plan = PlanRun(changed, ranks);
    if (!plan.ok() || plan->memory().total() >= least) continue;
    so_far = changed;
    least = plan->memory().total();
    smallest = SmallerRun{changed, Describe(config, changed), least, least <= limit};
    if (smallest->fits) break;
  }
  return smallest;
}

}  // namespace mnemo
