#include "src/ckpt/model_source.h"

#include <set>

#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/manifest.h"
#include "src/core/problem_list.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr std::string_view kGroup = "parameter/";

// Whether a checkpoint holds what is expected, and no other parameters.
absl::Status CheckTensors(const CheckpointReader& checkpoint,
                          std::span<const ExpectedTensor> expected) {
  const std::string& where = checkpoint.directory();
  ProblemList problems;
  std::set<std::string> known;
  for (const ExpectedTensor& tensor : expected) {
    const std::string name = std::string(kGroup) + tensor.name;
    known.insert(name);
    const v1::CheckpointTensor* found = checkpoint.Find(name);
    if (found == nullptr) {
      problems.Add("{}: tensor {} is missing, of shape {}", where, name, ToString(tensor.shape));
    } else if (ShapeOf(*found) != tensor.shape) {
      problems.Add("{}: tensor {} has shape {}; the configuration says {}", where, name,
                   ToString(ShapeOf(*found)), ToString(tensor.shape));
    } else if (DTypeOf(*found) == DType::kI32) {
      problems.Add("{}: tensor {} holds integers", where, name);
    }
  }
  for (const v1::CheckpointTensor& tensor : checkpoint.manifest().tensors()) {
    if (tensor.name().starts_with(kGroup) && !known.contains(tensor.name())) {
      problems.Add("{}: tensor {} is not part of the model", where, tensor.name());
    }
  }
  return problems.ToStatus(where);
}

}  // namespace

absl::StatusOr<ModelSource> ModelSource::Open(FileSystem& fs, const std::string& path) {
  if (fs.Exists(path + "/config.json")) return ModelSource(fs, path);
  const absl::StatusOr<std::string> found = FindCheckpoint(fs, path);
  if (!found.ok()) {
    const bool run = fs.Exists(fmt::format("{}/{}", path, kCheckpointsName));
    return run ? found.status() : absl::StatusOr<ModelSource>(ModelSource(fs, path));
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

absl::StatusOr<std::vector<Tensor>> ModelSource::Read(std::span<const ExpectedTensor> expected,
                                                      DType dtype) const {
  if (!checkpoint_) return ReadModelTensors(*fs_, directory_, expected, dtype);
  MNEMO_RETURN_IF_ERROR(CheckTensors(*checkpoint_, expected));
  std::vector<Tensor> tensors;
  for (const ExpectedTensor& tensor : expected) {
    MNEMO_ASSIGN_OR_RETURN(const Tensor value,
                           checkpoint_->Read(std::string(kGroup) + tensor.name));
    tensors.push_back(value.To(dtype));
  }
  return tensors;
}

}  // namespace mnemo
