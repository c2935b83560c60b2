#include "src/ckpt/checkpoint_directory.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <utility>

#include "src/ckpt/manifest.h"
#include "src/core/log.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr std::string_view kPrefix = "step-", kTemporary = ".tmp", kDamaged = ".damaged";
constexpr size_t kStepDigits = 12;

// Digits alone, no sign, no spaces.
std::optional<int64_t> ParseDigits(std::string_view text) {
  int64_t value = 0;
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == text.npos;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (!digits || error != std::errc()) return std::nullopt;
  return value;
}

bool IsPart(std::string_view name) {
  return name == kManifestName || name == std::string(kManifestName) + std::string(kTemporary) ||
         (name.starts_with("rank-") && name.ends_with(".h5"));
}

// By the directory's names: a manifest that cannot be looked at for a moment is not a missing one.
absl::StatusOr<bool> HasManifest(FileSystem& fs, const std::string& directory) {
  std::vector<std::string> names;
  MNEMO_ASSIGN_OR_RETURN(names, fs.List(directory));
  return std::find(names.begin(), names.end(), kManifestName) != names.end();
}

CheckpointEntry Inspect(FileSystem& fs, const std::string& path, const CheckpointName& name) {
  CheckpointEntry entry;
  entry.path = path;
  entry.name = name;
  if (name.temporary) {
    entry.state = CheckpointState::kLeftover;
    entry.problem = NotFound("{}: was never finished", path);
    return entry;
  }
  if (name.damaged) {
    entry.state = CheckpointState::kDamaged;
    entry.problem = DataLoss(
        "{}: was set aside, as damage was found in it; `mnemo ckpt verify` says where", path);
    return entry;
  }
  auto manifest = ReadManifest(fs, path);
  entry.problem = manifest.status();
  if (manifest.ok()) entry.problem = CheckFileLengths(fs, path, *manifest);
  if (entry.problem.ok()) {
    entry.manifest = *std::move(manifest);
  } else {
    const absl::StatusOr<bool> has_manifest = HasManifest(fs, path);
    const bool leftover = has_manifest.ok() && !*has_manifest;
    entry.state = leftover ? CheckpointState::kLeftover : CheckpointState::kDamaged;
  }
  return entry;
}

}  // namespace

std::string ToString(const CheckpointName& name) {
  std::string text = fmt::format("{}{:0{}}", kPrefix, name.step, kStepDigits);
  if (name.generation > 1) text += fmt::format(".{}", name.generation);
  if (name.temporary) text += kTemporary;
  if (name.damaged) text += kDamaged;
  return text;
}

std::optional<CheckpointName> ParseCheckpointName(std::string_view text) {
  const std::string_view given = text;
  CheckpointName name;
  if (!text.starts_with(kPrefix)) return std::nullopt;
  text.remove_prefix(kPrefix.size());
  name.damaged = text.ends_with(kDamaged);
  if (name.damaged) text.remove_suffix(kDamaged.size());
  name.temporary = text.ends_with(kTemporary);
  if (name.damaged && name.temporary) return std::nullopt;
  if (name.temporary) text.remove_suffix(kTemporary.size());
  const size_t dot = std::min(text.find('.'), text.size());
  const auto step = ParseDigits(text.substr(0, dot));
  if (!step) return std::nullopt;
  name.step = *step;
  if (dot < text.size()) {
    const auto generation = ParseDigits(text.substr(dot + 1));
    if (!generation || *generation > 1'000'000) return std::nullopt;
    name.generation = static_cast<int>(*generation);
  }
  // One name for one checkpoint: nothing that would be written in another way.
  if (ToString(name) != given) return std::nullopt;
  return name;
}

absl::StatusOr<std::vector<CheckpointEntry>> ListCheckpoints(FileSystem& fs,
                                                             const std::string& checkpoints) {
  std::vector<CheckpointEntry> entries;
  if (!fs.Exists(checkpoints)) return entries;
  std::vector<std::string> names;
  MNEMO_ASSIGN_OR_RETURN(names, fs.List(checkpoints));
  for (const std::string& text : names) {
    const auto name = ParseCheckpointName(text);
    if (name) entries.push_back(Inspect(fs, checkpoints + "/" + text, *name));
  }
  std::sort(entries.begin(), entries.end(),
            [](const CheckpointEntry& a, const CheckpointEntry& b) { return a.name < b.name; });
  return entries;
}

const CheckpointEntry* FindNewest(const std::vector<CheckpointEntry>& entries) {
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    if (entry->state == CheckpointState::kWhole) return &*entry;
  }
  return nullptr;
}

const CheckpointEntry* FindNewerDamaged(const std::vector<CheckpointEntry>& entries) {
  const CheckpointEntry* newest = FindNewest(entries);
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    if (IsNewerDamaged(*entry, newest)) return &*entry;
  }
  return nullptr;
}

bool IsNewerDamaged(const CheckpointEntry& entry, const CheckpointEntry* newest) {
  if (entry.state != CheckpointState::kDamaged) return false;
  if (newest == nullptr) return true;
  // One that was set aside has been replaced where its step is whole again.
  return entry.name.damaged ? entry.name.step > newest->name.step : newest->name < entry.name;
}

absl::StatusOr<std::string> SetAside(FileSystem& fs, const std::string& directory) {
  const std::filesystem::path path(directory);
  auto name = ParseCheckpointName(path.filename().string());
  if (!name || name->temporary || name->damaged) {
    return InvalidArgument("{} is not the name of a checkpoint", directory);
  }
  name->damaged = true;
  const std::string checkpoints = path.parent_path().string();
  while (fs.Exists(checkpoints + "/" + ToString(*name))) ++name->generation;
  const std::string aside = checkpoints + "/" + ToString(*name);
  MNEMO_RETURN_IF_ERROR(fs.Rename(directory, aside));
  MNEMO_RETURN_IF_ERROR(fs.SyncDirectory(checkpoints));
  return aside;
}

absl::StatusOr<std::string> FindCheckpoints(FileSystem& fs, const std::string& path) {
  if (!fs.Exists(path)) return NotFound("{} does not exist", path);
  const std::string checkpoints = path + "/" + std::string(kCheckpointsName);
  return fs.Exists(checkpoints) ? checkpoints : path;
}

absl::StatusOr<std::string> FindCheckpoint(FileSystem& fs, const std::string& path) {
  std::string checkpoints;
  MNEMO_ASSIGN_OR_RETURN(checkpoints, FindCheckpoints(fs, path));
  const std::filesystem::path given(path);
  const std::string last = given.has_filename() ? given.filename() : given.parent_path().filename();
  if (ParseCheckpointName(last) || fs.Exists(path + "/" + std::string(kManifestName))) return path;
  std::vector<CheckpointEntry> entries;
  MNEMO_ASSIGN_OR_RETURN(entries, ListCheckpoints(fs, checkpoints));
  if (const CheckpointEntry* newest = FindNewest(entries)) {
    if (const CheckpointEntry* damaged = FindNewerDamaged(entries)) {
      LogWarning("using {}, as a newer one is damaged: {}", newest->path,
                 std::string(damaged->problem.message()));
    }
    return newest->path;
  }
  std::string message = fmt::format("{} holds no whole checkpoint", checkpoints);
  for (const CheckpointEntry& entry : entries) {
    message += fmt::format("; {}", std::string(entry.problem.message()));
  }
  return absl::NotFoundError(message);
}

absl::Status RemoveLeftovers(FileSystem& fs, const std::string& checkpoints) {
  std::vector<std::string> names;
  MNEMO_ASSIGN_OR_RETURN(names, fs.List(checkpoints));
  for (const std::string& text : names) {
    const auto name = ParseCheckpointName(text);
    if (!name) continue;
    const std::string path = checkpoints + "/" + text;
    bool has_manifest = false;
    MNEMO_ASSIGN_OR_RETURN(has_manifest, HasManifest(fs, path));
    if (name->temporary || !has_manifest) MNEMO_RETURN_IF_ERROR(RemoveCheckpoint(fs, path));
  }
  return absl::OkStatus();
}

absl::Status RemoveCheckpoint(FileSystem& fs, const std::string& directory) {
  const std::string manifest = directory + "/" + std::string(kManifestName);
  if (fs.Exists(manifest)) {
    MNEMO_RETURN_IF_ERROR(fs.Remove(manifest));
    MNEMO_RETURN_IF_ERROR(fs.SyncDirectory(directory));
  }
  std::vector<std::string> names;
  MNEMO_ASSIGN_OR_RETURN(names, fs.List(directory));
  bool strangers = false;
  for (const std::string& name : names) {
    if (IsPart(name)) {
      MNEMO_RETURN_IF_ERROR(fs.Remove(directory + "/" + name));
    } else {
      strangers = true;
    }
  }
  return strangers ? absl::OkStatus() : fs.RemoveDirectory(directory);
}

int64_t RemovableBytes(FileSystem& fs, const std::string& directory) {
  int64_t bytes = 0;
  const absl::StatusOr<std::vector<std::string>> names = fs.List(directory);
  if (!names.ok()) return 0;
  for (const std::string& name : *names) {
    if (IsPart(name)) bytes += fs.FileSize(directory + "/" + name).value_or(0);
  }
  return bytes;
}

int64_t CheckpointBytes(const v1::CheckpointManifest& manifest) {
  int64_t bytes = 0;
  for (const v1::CheckpointFile& file : manifest.files()) bytes += file.bytes();
  return bytes;
}

}  // namespace mnemo
