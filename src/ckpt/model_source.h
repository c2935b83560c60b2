// A model to be used, wherever it is: in a model directory, or in a checkpoint of the run that
// trains it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/model_directory.h"
#include "src/core/file_system.h"
#include "src/core/tensor.h"

namespace mnemo {

// `fs` outlives it.
class ModelSource {
 public:
  // `path` is a model directory, a checkpoint, or what holds checkpoints (a run, or its
  // checkpoints/), of which the newest whole one is taken. Where it is none of these the first read
  // says so.
  static absl::StatusOr<ModelSource> Open(FileSystem& fs, const std::string& path);

  const std::string& directory() const { return directory_; }
  std::string config_name() const;  // the file, for messages
  absl::StatusOr<ModelDescription> Describe() const;
  // As ReadModelTensors.
  absl::StatusOr<std::vector<Tensor>> Read(std::span<const ExpectedTensor> expected,
                                           DType dtype) const;

 private:
  ModelSource(FileSystem& fs, std::string directory) : fs_(&fs), directory_(std::move(directory)) {}

  FileSystem* fs_;
  std::string directory_;
  std::optional<CheckpointReader> checkpoint_;  // null: a model directory
};

}  // namespace mnemo
