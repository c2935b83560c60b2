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
constexpr int kMostGenerations = 1'000'000;

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

absl::StatusOr<v1::CheckpointManifest> ReadWhole(FileSystem& fs, const std::string& directory,
                                                 const CheckpointName& name) {
  auto manifest = ReadManifest(fs, directory);
  if (absl::IsNotFound(manifest.status())) {
    // It was there when the directory got its name, and is the first to go when that is given up.
    return DataLoss("{}: its {} is missing", directory, kManifestName);
  }
  MNEMO_RETURN_IF_ERROR(manifest.status());
  if (manifest->training().step() != name.step) {
    return DataLoss("{}: holds step {}: it was renamed, or its contents were swapped", directory,
                    manifest->training().step());
  }
  MNEMO_RETURN_IF_ERROR(CheckFileLengths(fs, directory, *manifest));
  return manifest;
}

CheckpointEntry Inspect(FileSystem& fs, const std::string& path, const CheckpointName& name) {
  CheckpointEntry entry;
  entry.path = path;
  entry.name = name;
  if (name.temporary) {
    entry.state = CheckpointState::kLeftover;
    entry.problem = NotFound("{}: is being written or removed, or was never finished", path);
    return entry;
  }
  if (name.damaged) {
    entry.state = CheckpointState::kDamaged;
    entry.problem = DataLoss(
        "{}: was set aside, as damage was found in it; `mnemo ckpt verify` says where", path);
    return entry;
  }
  auto manifest = ReadWhole(fs, path, name);
  entry.problem = manifest.status();
  if (manifest.ok()) {
    entry.manifest = *std::move(manifest);
  } else {
    entry.state = CheckpointState::kDamaged;
  }
  return entry;
}

// Takes a checkpoint's name from it, durably, so that it is none any more: the first step of its
// removal. Returns the new path.
absl::StatusOr<std::string> GiveUpName(FileSystem& fs, const std::string& directory,
                                       CheckpointName name) {
  const std::string checkpoints = ParentDirectory(directory);
  name.temporary = true, name.damaged = false;
  std::string path;
  do {
    path = checkpoints + "/" + ToString(name);
  } while (fs.Exists(path) && ++name.generation < kMostGenerations);
  MNEMO_RETURN_IF_ERROR(fs.Rename(directory, path));
  MNEMO_RETURN_IF_ERROR(fs.SyncDirectory(checkpoints));
  return path;
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
    if (!generation || *generation > kMostGenerations) return std::nullopt;
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
    if (!name) continue;
    const std::string path = checkpoints + "/" + text;
    // A file, or removed by another process since.
    if (absl::IsNotFound(fs.List(path).status())) continue;
    entries.push_back(Inspect(fs, path, *name));
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

bool IsKnownDamage(const CheckpointEntry& entry) {
  return absl::IsDataLoss(entry.problem) || absl::IsFailedPrecondition(entry.problem);
}

absl::StatusOr<std::string> SetAside(FileSystem& fs, const std::string& directory) {
  auto name = ParseCheckpointName(std::filesystem::path(directory).filename().string());
  if (!name || name->temporary || name->damaged) {
    return InvalidArgument("{} is not the name of a checkpoint", directory);
  }
  name->damaged = true;
  const std::string checkpoints = ParentDirectory(directory);
  while (fs.Exists(checkpoints + "/" + ToString(*name)) && name->generation < kMostGenerations) {
    ++name->generation;
  }
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
    if (!name->temporary) continue;
    // One that cannot be removed is in nobody's way.
    const absl::Status removed = RemoveCheckpoint(fs, checkpoints + "/" + text);
    if (!removed.ok()) LogWarning("a leftover stays: {}", std::string(removed.message()));
  }
  return absl::OkStatus();
}

absl::Status RemoveCheckpoint(FileSystem& fs, const std::string& path) {
  std::string directory = path;
  const auto known = ParseCheckpointName(std::filesystem::path(path).filename().string());
  if (known && !known->temporary) {
    MNEMO_ASSIGN_OR_RETURN(directory, GiveUpName(fs, path, *known));
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
