// A directory of checkpoints: which there are, which is the newest, which go.
//
// A checkpoint is a directory step-NNNNNNNNNNNN (step, 12 digits), or with a suffix .2, .3, ..
// where a step was saved again. What is there is found by reading manifests; no pointer file says
// which is the newest.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/checkpoint.pb.h"
#include "src/core/file_system.h"

namespace mnemo {

inline constexpr std::string_view kCheckpointsName = "checkpoints";  // in a run's directory

struct CheckpointName {
  int64_t step = 0;
  int generation = 1;
  bool temporary = false;  // ends in ".tmp": being written, or left by a save that did not end
  bool damaged = false;    // ends in ".damaged": set aside
  auto operator<=>(const CheckpointName&) const = default;
};
std::string ToString(const CheckpointName& name);
std::optional<CheckpointName> ParseCheckpointName(std::string_view name);

enum class CheckpointState {
  kWhole,     // as far as the manifest and the files' lengths tell
  kDamaged,   // something is wrong, of another format version, or cannot be read now (`problem`
              // tells which); or it was set aside
  kLeftover,  // temporary: of a save or a removal that is under way or was interrupted
};

struct CheckpointEntry {
  std::string path;
  CheckpointName name;
  CheckpointState state = CheckpointState::kWhole;
  absl::Status problem;             // OK if whole
  v1::CheckpointManifest manifest;  // if whole
};

// All of them, the newest last. None if there is no such directory; an error if it cannot be looked
// into, or is a link that leads nowhere.
absl::StatusOr<std::vector<CheckpointEntry>> ListCheckpoints(FileSystem& fs,
                                                             const std::string& checkpoints);

// The newest that is whole, or null. The damaged ones after it are worth a warning.
const CheckpointEntry* FindNewest(const std::vector<CheckpointEntry>& entries);
// The newest that is damaged, if it is newer than that, or null. One that was set aside does not
// count where its step is whole again.
const CheckpointEntry* FindNewerDamaged(const std::vector<CheckpointEntry>& entries);
// Whether an entry is damaged and newer than the newest whole one, which may be null.
bool IsNewerDamaged(const CheckpointEntry& entry, const CheckpointEntry* newest);

// Whether what is wrong with an entry is in its bytes, and not in what keeps them from being read
// now.
bool IsKnownDamage(const CheckpointEntry& entry);

// Gives a checkpoint in whose contents damage was found a name by which all know: ".damaged" is
// added. It is neither used nor removed then, until its step is saved again. Returns the new path.
absl::StatusOr<std::string> SetAside(FileSystem& fs, const std::string& directory);

// From what a user names. A run's checkpoints are in RUN/checkpoints; anything else is taken for a
// directory of checkpoints itself. NotFound if `path` does not exist.
absl::StatusOr<std::string> FindCheckpoints(FileSystem& fs, const std::string& path);
// One checkpoint: `path` itself if it is one, whole or not, else the newest whole one of a run or
// of a directory of checkpoints, with a warning where a newer one is damaged. NotFound if there is
// none; the message says what is damaged.
absl::StatusOr<std::string> FindCheckpoint(FileSystem& fs, const std::string& path);

// Removes every leftover; warns of those that stay. Not while a checkpoint is being written there.
absl::Status RemoveLeftovers(FileSystem& fs, const std::string& checkpoints);

// Removes one checkpoint. It is renamed to a temporary name first, so that one half removed is a
// leftover. Files that are not part of one stay, and so does the directory then, under that name.
absl::Status RemoveCheckpoint(FileSystem& fs, const std::string& directory);
// What that frees, of whole ones and of others; files that cannot be looked at are left out.
int64_t RemovableBytes(FileSystem& fs, const std::string& directory);

// Sum of the files' lengths.
int64_t CheckpointBytes(const v1::CheckpointManifest& manifest);

}  // namespace mnemo
