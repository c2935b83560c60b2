#include <chrono>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/checkpoint_writer.h"
#include "src/ckpt/manifest.h"
#include "src/core/log.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

absl::Status Merge(std::span<const v1::CheckpointFragment> fragments,
                   v1::CheckpointManifest& manifest) {
  std::map<std::string, v1::CheckpointTensor*> tensors;
  for (const v1::CheckpointFragment& fragment : fragments) {
    const int first_file = manifest.files_size();
    manifest.mutable_files()->MergeFrom(fragment.files());
    for (const v1::CheckpointTensor& part : fragment.tensors()) {
      auto [found, is_new] = tensors.emplace(part.name(), nullptr);
      if (is_new) {
        found->second = manifest.add_tensors();
        found->second->set_name(part.name());
        found->second->set_dtype(part.dtype());
        *found->second->mutable_shape() = part.shape();
      } else if (found->second->dtype() != part.dtype() ||
                 ShapeOf(*found->second) != ShapeOf(part)) {
        return InvalidArgument("ranks disagree about the dtype or shape of {}", part.name());
      }
      for (const v1::CheckpointPiece& piece : part.pieces()) {
        v1::CheckpointPiece& merged = *found->second->add_pieces();
        merged = piece;
        merged.set_file(first_file + piece.file());
      }
    }
  }
  return absl::OkStatus();
}

// A rank that sees another file system than this one would leave a checkpoint with holes.
absl::Status CheckVisible(FileSystem& fs, const std::string& directory,
                          const v1::CheckpointManifest& manifest) {
  const absl::Status status = CheckFileLengths(fs, directory, manifest);
  if (status.ok()) return status;
  return FailedPrecondition("{} (all hosts must see the run directory, on one shared file system)",
                            std::string(status.message()));
}

absl::StatusOr<CheckpointName> NameOf(const std::string& temporary) {
  const auto name = ParseCheckpointName(std::filesystem::path(temporary).filename().string());
  if (name && name->temporary) return *name;
  return InvalidArgument("{} is not the name of a checkpoint in the making", temporary);
}

// The step was there already: those before are of no use now. What fails here is no reason to call
// the new one lost.
void RemoveSuperseded(FileSystem& fs, const std::string& checkpoints,
                      const CheckpointName& newest) {
  const auto names = fs.List(checkpoints);
  if (!names.ok()) return;
  for (const std::string& text : *names) {
    const auto name = ParseCheckpointName(text);
    if (!name || name->temporary || name->step != newest.step ||
        name->generation >= newest.generation) {
      continue;
    }
    const absl::Status status = RemoveCheckpoint(fs, checkpoints + "/" + text);
    if (!status.ok())
      LogWarning("cannot remove what {} replaces: {}", ToString(newest),
                 std::string(status.message()));
  }
}

}  // namespace

absl::StatusOr<std::string> BeginCheckpoint(FileSystem& fs, const std::string& checkpoints,
                                            int64_t step) {
  MNEMO_RETURN_IF_ERROR(MakeDurableDirectories(fs, checkpoints));
  MNEMO_RETURN_IF_ERROR(RemoveLeftovers(fs, checkpoints));
  CheckpointName name{step, 1, true};
  std::vector<std::string> names;
  MNEMO_ASSIGN_OR_RETURN(names, fs.List(checkpoints));
  for (const std::string& text : names) {
    const auto other = ParseCheckpointName(text);
    if (other && other->step == step && other->generation >= name.generation) {
      name.generation = other->generation + 1;
    }
  }
  const std::string temporary = checkpoints + "/" + ToString(name);
  MNEMO_RETURN_IF_ERROR(fs.MakeDirectories(temporary));
  return temporary;
}

absl::StatusOr<std::string> CommitCheckpoint(FileSystem& fs, const std::string& temporary,
                                             std::span<const v1::CheckpointFragment> fragments,
                                             v1::CheckpointManifest manifest) {
  CheckpointName name;
  MNEMO_ASSIGN_OR_RETURN(name, NameOf(temporary));
  if (manifest.training().step() != name.step) {
    return InvalidArgument("{} was begun for step {}, not {}", temporary, name.step,
                           manifest.training().step());
  }
  manifest.set_format_version(kCheckpointFormatVersion);
  manifest.set_created_unix_seconds(std::chrono::duration_cast<std::chrono::seconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
  manifest.clear_files();
  manifest.clear_tensors();
  MNEMO_RETURN_IF_ERROR(Merge(fragments, manifest));
  const absl::Status rules = CheckManifest(manifest, temporary);
  if (!rules.ok()) return InvalidArgument("cannot commit {}", std::string(rules.message()));
  MNEMO_RETURN_IF_ERROR(CheckVisible(fs, temporary, manifest));
  // Also syncs the directory, with the names of the ranks' files.
  MNEMO_RETURN_IF_ERROR(WriteFileAtomically(fs, temporary + "/" + std::string(kManifestName),
                                            EncodeManifest(manifest)));
  name.temporary = false;
  const std::string checkpoints = ParentDirectory(temporary),
                    directory = checkpoints + "/" + ToString(name);
  MNEMO_RETURN_IF_ERROR(fs.Rename(temporary, directory));
  MNEMO_RETURN_IF_ERROR(fs.SyncDirectory(checkpoints));
  if (name.generation > 1) RemoveSuperseded(fs, checkpoints, name);
  return directory;
}

void AbandonCheckpoint(FileSystem& fs, const std::string& temporary) {
  if (!NameOf(temporary).ok() || !fs.Exists(temporary)) return;
  const absl::Status status = RemoveCheckpoint(fs, temporary);
  if (!status.ok())
    LogWarning("cannot remove {}, of a failed save: {}", temporary, std::string(status.message()));
}

absl::StatusOr<std::string> SaveCheckpoint(FileSystem& fs, const std::string& checkpoints,
                                           std::span<const StatePiece> pieces,
                                           v1::CheckpointManifest about) {
  std::string temporary;
  MNEMO_ASSIGN_OR_RETURN(temporary, BeginCheckpoint(fs, checkpoints, about.training().step()));
  const auto fragment = WriteCheckpointFile(fs, temporary, 0, pieces);
  auto directory = fragment.ok()
                       ? CommitCheckpoint(fs, temporary, {&*fragment, 1}, std::move(about))
                       : absl::StatusOr<std::string>(fragment.status());
  if (!directory.ok()) AbandonCheckpoint(fs, temporary);
  return directory;
}

}  // namespace mnemo
