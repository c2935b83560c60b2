// Which checkpoints of a directory stay and which go: one rule for runs and for `mnemo ckpt prune`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "src/ckpt/checkpoint_directory.h"
#include "src/core/file_system.h"

namespace mnemo {

// What stays of the whole ones is what any of the first three names.
struct RetentionRule {
  int last = 1;          // so many of the newest; at least 1
  int64_t every = 0;     // those of steps that are multiples of it; 0: none
  bool best = false;     // the one with the least held-out loss, of those that have one
  bool damaged = false;  // damaged ones go; otherwise all of them stay
  // What interrupted saves and removals have left goes. Only where no save can be going on.
  bool leftovers = false;
};
// train.checkpoint_keep, .._keep_every and .._keep_best.
RetentionRule RetentionOf(const v1::TrainConfig& train);

// What goes, the newest first; points into `entries`. A damaged one goes only where the damage is
// certain (IsKnownDamage), as what cannot be read now may be whole. InvalidArgument if `last` < 1.
absl::StatusOr<std::vector<const CheckpointEntry*>> FindSuperfluous(
    const std::vector<CheckpointEntry>& entries, const RetentionRule& rule);

// Removes them and returns their paths. One that cannot be removed does not keep the others from
// going: the first error is returned when all have been tried.
absl::StatusOr<std::vector<std::string>> PruneCheckpoints(FileSystem& fs,
                                                          const std::string& checkpoints,
                                                          const RetentionRule& rule);

}  // namespace mnemo
