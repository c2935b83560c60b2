#include "src/ckpt/model_source.h"

#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/manifest.h"
#include "src/core/problem_list.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr std::string_view kGroup = "parameter/";

}  // namespace

absl::StatusOr<ModelSource> ModelSource::Open(FileSystem& fs, const std::string& path) {
  if (fs.Exists(path + "/config.json")) {
    ModelSource source(fs, path);
    MNEMO_ASSIGN_OR_RETURN(source.weights_, ModelWeights::Open(fs, path));
    return source;
  }
  const absl::StatusOr<std::string> found = FindCheckpoint(fs, path);
  if (!found.ok()) {
    if (fs.Exists(fmt::format("{}/{}", path, kCheckpointsName))) return found.status();
    const absl::Status missing = ReadModelDescription(fs, path).status();
    return missing.ok() ? Open(fs, path) : missing;  // it may have come just now
  }
  ModelSource source(fs, *found);
  MNEMO_ASSIGN_OR_RETURN(source.checkpoint_, CheckpointReader::Open(fs, *found));
  return source;
}

std::string ModelSource::config_name() const {
  return fmt::format("{}/{}", directory_, checkpoint_ ? kManifestName : "config.json");
}

absl::StatusOr<ModelDescription> ModelSource::Describe() const {
  if (!checkpoint_) return ReadModelDescription(*fs_, directory_);
  const v1::CheckpointTokenizer& tokenizer = checkpoint_->manifest().tokenizer();
  return ModelDescription{checkpoint_->manifest().config(),
                          {.kind = tokenizer.kind(),
                           .hash = tokenizer.hash(),
                           .vocabulary = tokenizer.vocabulary(),
                           .separator = tokenizer.separator(),
                           .model = tokenizer.model()}};
}

std::string ModelSource::weights_name() const {
  return checkpoint_ ? directory_ : weights_->path();
}

std::map<std::string, ModelSource::Kind> ModelSource::Parameters() const {
  std::map<std::string, Kind> all;
  if (weights_) {
    for (const auto& [name, entry] : weights_->entries()) all[name] = {entry.dtype, entry.shape};
    return all;
  }
  for (const v1::CheckpointTensor& tensor : checkpoint_->manifest().tensors()) {
    if (!tensor.name().starts_with(kGroup)) continue;
    all[tensor.name().substr(kGroup.size())] = {DTypeOf(tensor), ShapeOf(tensor)};
  }
  return all;
}

absl::Status ModelSource::Check(std::span<const ExpectedTensor> expected) const {
  const std::string where = weights_name();
  std::map<std::string, Kind> held = Parameters();
  ProblemList problems;
  for (const ExpectedTensor& tensor : expected) {
    const auto found = held.find(tensor.name);
    if (found == held.end()) {
      problems.Add("{}: tensor {} is missing, of shape {}", where, tensor.name,
                   ToString(tensor.shape));
      continue;
    }
    if (found->second.shape != tensor.shape) {
      problems.Add("{}: tensor {} has shape {}; the configuration says {}", where, tensor.name,
                   ToString(found->second.shape), ToString(tensor.shape));
    } else if (found->second.dtype == DType::kI32) {
      problems.Add("{}: tensor {} holds integers", where, tensor.name);
    }
    held.erase(found);
  }
  for (const auto& [name, kind] : held) {
    problems.Add("{}: tensor {} {} is not part of the model", where, name, ToString(kind.shape));
  }
  return problems.ToStatus(where);
}

absl::StatusOr<Tensor> ModelSource::ReadBox(const std::string& name, const Box& box,
                                            DType dtype) const {
  MNEMO_ASSIGN_OR_RETURN(const Tensor value,
                         weights_ ? weights_->ReadBox(name, box)
                                  : checkpoint_->ReadBox(std::string(kGroup) + name, box));
  return value.To(dtype);
}

absl::StatusOr<std::vector<Tensor>> ModelSource::Read(std::span<const ExpectedTensor> expected,
                                                      DType dtype) const {
  MNEMO_RETURN_IF_ERROR(Check(expected));
  std::vector<Tensor> tensors;
  for (const ExpectedTensor& tensor : expected) {
    MNEMO_ASSIGN_OR_RETURN(tensors.emplace_back(),
                           ReadBox(tensor.name, WholeBox(tensor.shape), dtype));
  }
  return tensors;
}

}  // namespace mnemo
