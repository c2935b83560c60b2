#include "src/ckpt/model_directory.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <string_view>

#include "src/core/problem_list.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr const char* kWeights = "model.safetensors";
constexpr const char* kConfig = "config.json";
constexpr const char* kTokenizer = "tokenizer.model";
constexpr std::array<std::string_view, 3> kFiles = {kWeights, kConfig, kTokenizer};

std::string Join(const std::string& directory, std::string_view file) {
  return directory + "/" + std::string(file);
}

// "runs/model/" would put the temporary directory inside the model.
std::string WithoutSlash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string Parent(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
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
    if (std::find(kFiles.begin(), kFiles.end(), stem) == kFiles.end()) {
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

absl::Status WriteFiles(FileSystem& fs, const std::string& directory,
                        const ModelDescription& description, std::span<const NamedTensor> tensors) {
  MNEMO_RETURN_IF_ERROR(fs.MakeDirectories(directory));
  MNEMO_RETURN_IF_ERROR(
      WriteSafetensors(fs, Join(directory, kWeights), tensors, {{"format", "mnemosyne-model"}}));
  if (!description.tokenizer.model.empty()) {
    MNEMO_RETURN_IF_ERROR(
        WriteFileAtomically(fs, Join(directory, kTokenizer), description.tokenizer.model));
  }
  return WriteFileAtomically(fs, Join(directory, kConfig), PrintModelConfig(description));
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
  MNEMO_RETURN_IF_ERROR(fs.SyncDirectory(Parent(to)));
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

absl::Status WriteModelDirectory(FileSystem& fs, const std::string& path,
                                 const ModelDescription& description,
                                 std::span<const NamedTensor> tensors) {
  const std::string directory = WithoutSlash(path), temporary = directory + ".tmp";
  MNEMO_RETURN_IF_ERROR(ModelFiles(fs, directory).status());
  MNEMO_RETURN_IF_ERROR(RemoveModel(fs, temporary));
  absl::Status status = WriteFiles(fs, temporary, description, tensors);
  if (status.ok()) status = Replace(fs, temporary, directory);
  if (!status.ok()) (void)RemoveModel(fs, temporary);
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

absl::StatusOr<std::vector<Tensor>> ReadModelTensors(FileSystem& fs, const std::string& path,
                                                     std::span<const ExpectedTensor> expected,
                                                     DType dtype) {
  const std::string file = Join(WithoutSlash(path), kWeights);
  auto reader = SafetensorsReader::Open(fs, file);
  MNEMO_RETURN_IF_ERROR(reader.status());
  ProblemList problems;
  std::set<std::string_view> known;
  for (const ExpectedTensor& tensor : expected) {
    known.insert(tensor.name);
    const auto found = reader->entries().find(tensor.name);
    if (found == reader->entries().end()) {
      problems.Add("{}: tensor {} is missing, of shape {}", file, tensor.name,
                   ToString(tensor.shape));
    } else if (found->second.shape != tensor.shape) {
      problems.Add("{}: tensor {} has shape {}; the configuration says {}", file, tensor.name,
                   ToString(found->second.shape), ToString(tensor.shape));
    } else if (found->second.dtype == DType::kI32) {
      problems.Add("{}: tensor {} holds integers", file, tensor.name);
    }
  }
  for (const auto& [name, entry] : reader->entries()) {
    if (known.count(name) == 0) {
      problems.Add("{}: tensor {} {} is not part of the model", file, name, ToString(entry.shape));
    }
  }
  MNEMO_RETURN_IF_ERROR(problems.ToStatus(file));
  std::vector<Tensor> tensors;
  for (const ExpectedTensor& tensor : expected) {
    Tensor value;
    MNEMO_ASSIGN_OR_RETURN(value, reader->Read(tensor.name));
    tensors.push_back(value.To(dtype));
  }
  return tensors;
}

}  // namespace mnemo
