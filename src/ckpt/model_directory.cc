#include "src/ckpt/model_directory.h"

#include <filesystem>
#include <string_view>

#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr const char* kConfig = "config.json";
constexpr const char* kTokenizer = "tokenizer.model";

std::string Join(const std::string& directory, std::string_view file) {
  return directory + "/" + std::string(file);
}

// "runs/model/" would put the temporary directory inside the model.
std::string WithoutSlash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// Where a model is written that is to be at `path`: where the link leads, if it is one.
std::string PlaceOf(const std::string& path) {
  const std::string directory = WithoutSlash(path);
  std::error_code error;
  if (!std::filesystem::is_symlink(directory, error)) return directory;
  return std::filesystem::weakly_canonical(directory).string();
}

// The files of a model, or of a part of one; empty if there is no such directory. An error if it
// holds anything else.
absl::StatusOr<std::vector<std::string>> ModelFiles(FileSystem& fs, const std::string& directory) {
  std::vector<std::string> names;
  if (!fs.Exists(directory)) return names;
  MNEMO_ASSIGN_OR_RETURN(names, fs.List(directory));
  for (const std::string& name : names) {
    std::string_view stem = name;
    if (stem.ends_with(".tmp")) stem.remove_suffix(4);
    if (stem != kConfig && stem != kTokenizer && !IsWeightsName(stem)) {
      return FailedPrecondition(
          "{} holds {}, which is not part of a model: move it away, or choose another directory",
          directory, name);
    }
  }
  return names;
}

absl::Status RemoveModel(FileSystem& fs, const std::string& directory) {
  if (!fs.Exists(directory)) return absl::OkStatus();
  std::vector<std::string> names;
  MNEMO_ASSIGN_OR_RETURN(names, ModelFiles(fs, directory));
  for (const std::string& name : names) MNEMO_RETURN_IF_ERROR(fs.Remove(Join(directory, name)));
  return fs.RemoveDirectory(directory);
}

absl::StatusOr<int> WriteFiles(FileSystem& fs, const std::string& directory,
                               const ModelDescription& description,
                               std::span<const StreamedTensor> tensors, int64_t shard_bytes) {
  MNEMO_RETURN_IF_ERROR(MakeDurableDirectories(fs, ParentDirectory(directory)));
  MNEMO_RETURN_IF_ERROR(fs.MakeDirectories(directory));
  MNEMO_ASSIGN_OR_RETURN(const int files, WriteModelWeights(fs, directory, tensors, shard_bytes));
  if (!description.tokenizer.model.empty()) {
    MNEMO_RETURN_IF_ERROR(
        WriteFileAtomically(fs, Join(directory, kTokenizer), description.tokenizer.model));
  }
  MNEMO_RETURN_IF_ERROR(
      WriteFileAtomically(fs, Join(directory, kConfig), PrintModelConfig(description)));
  return files;
}

// Puts `from` in the place of `to`. If the last rename fails, `to` is what it was.
absl::Status Replace(FileSystem& fs, const std::string& from, const std::string& to) {
  const std::string old = to + ".old";
  const bool replaces = fs.Exists(to);
  if (replaces) {
    MNEMO_RETURN_IF_ERROR(RemoveModel(fs, old));
    MNEMO_RETURN_IF_ERROR(fs.Rename(to, old));
  }
  const absl::Status status = fs.Rename(from, to);
  if (!status.ok()) {
    if (replaces) (void)fs.Rename(old, to);  // the first error is the one to report
    return status;
  }
  MNEMO_RETURN_IF_ERROR(fs.SyncDirectory(ParentDirectory(to)));
  return RemoveModel(fs, old);  // this one, or what an interrupted replacement has left
}

std::string Missing(FileSystem& fs, const std::string& directory) {
  if (!fs.Exists(directory) && fs.Exists(directory + ".old")) {
    return fmt::format(
        "{0} does not exist, but {0}.old does: replacing it was interrupted; "
        "rename {0}.old to {0} to use it",
        directory);
  }
  return fmt::format("{} is not a model directory: it has no {}", directory, kConfig);
}

}  // namespace

absl::StatusOr<int> WriteModelDirectory(FileSystem& fs, const std::string& path,
                                        const ModelDescription& description,
                                        std::span<const StreamedTensor> tensors,
                                        int64_t shard_bytes) {
  const std::string directory = PlaceOf(path), temporary = directory + ".tmp";
  MNEMO_RETURN_IF_ERROR(ModelFiles(fs, directory).status());
  MNEMO_RETURN_IF_ERROR(RemoveModel(fs, temporary));
  const absl::StatusOr<int> files = WriteFiles(fs, temporary, description, tensors, shard_bytes);
  absl::Status status = files.status();
  if (status.ok()) status = Replace(fs, temporary, directory);
  if (status.ok()) return files;
  (void)RemoveModel(fs, temporary);
  return status;
}

absl::StatusOr<ModelDescription> ReadModelDescription(FileSystem& fs, const std::string& path) {
  const std::string directory = WithoutSlash(path), config = Join(directory, kConfig);
  if (!fs.Exists(config)) return NotFound("{}", Missing(fs, directory));
  std::string text;
  MNEMO_ASSIGN_OR_RETURN(text, fs.ReadFile(config));
  ModelDescription description;
  MNEMO_ASSIGN_OR_RETURN(description, ParseModelConfig(text, config));
  const std::string model = Join(directory, kTokenizer);
  if (fs.Exists(model)) {
    MNEMO_ASSIGN_OR_RETURN(description.tokenizer.model, fs.ReadFile(model));
  }
  return description;
}

}  // namespace mnemo
