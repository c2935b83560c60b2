#include "src/ckpt/checkpoint_retention.h"

#include <algorithm>
#include <cmath>

#include "src/core/status.h"

namespace mnemo {
namespace {

// Of equal ones the newest; null if no whole one has a loss.
const CheckpointEntry* FindBest(const std::vector<CheckpointEntry>& entries) {
  const CheckpointEntry* best = nullptr;
  const auto loss = [](const CheckpointEntry& entry) {
    return entry.manifest.training().evaluation_loss();
  };
  for (const CheckpointEntry& entry : entries) {
    const v1::TrainingState& training = entry.manifest.training();
    if (entry.state != CheckpointState::kWhole || !training.has_evaluation_loss()) continue;
    if (!std::isfinite(loss(entry))) continue;
    if (best == nullptr || loss(entry) <= loss(*best)) best = &entry;
  }
  return best;
}

}  // namespace

RetentionRule RetentionOf(const v1::TrainConfig& train) {
  return {.last = std::max(1, train.checkpoint_keep()),
          .every = train.checkpoint_keep_every(),
          .best = train.checkpoint_keep_best()};
}

absl::StatusOr<std::vector<const CheckpointEntry*>> FindSuperfluous(
    const std::vector<CheckpointEntry>& entries, const RetentionRule& rule) {
  if (rule.last < 1) {
    return InvalidArgument("at least one checkpoint must be kept, not {}", rule.last);
  }
  const CheckpointEntry* best = rule.best ? FindBest(entries) : nullptr;
  std::vector<const CheckpointEntry*> superfluous;
  int whole = 0;
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    if (entry->name.temporary && !rule.leftovers) continue;
    if (entry->state == CheckpointState::kDamaged) {
      if (!rule.damaged || !IsKnownDamage(*entry)) continue;
    }
    if (entry->state == CheckpointState::kWhole) {
      const bool stays = rule.every > 0 && entry->name.step % rule.every == 0;
      if (whole++ < rule.last || stays || &*entry == best) continue;
    }
    superfluous.push_back(&*entry);
  }
  return superfluous;
}

absl::StatusOr<std::vector<std::string>> PruneCheckpoints(FileSystem& fs,
                                                          const std::string& checkpoints,
                                                          const RetentionRule& rule) {
  MNEMO_ASSIGN_OR_RETURN(const auto entries, ListCheckpoints(fs, checkpoints));
  MNEMO_ASSIGN_OR_RETURN(const auto superfluous, FindSuperfluous(entries, rule));
  std::vector<std::string> removed;
  absl::Status status;
  for (const CheckpointEntry* entry : superfluous) {
    const absl::Status result = RemoveCheckpoint(fs, entry->path);
    if (result.ok()) removed.push_back(entry->path);
    status.Update(result);
  }
  if (!status.ok()) return status;
  return removed;
}

}  // namespace mnemo
