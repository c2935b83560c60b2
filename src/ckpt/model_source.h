// A model to be used, wherever it is: in a model directory, or in a checkpoint of the run that
// trains it.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/model_directory.h"
#include "src/ckpt/model_weights.h"
#include "src/core/file_system.h"
#include "src/core/tensor.h"

namespace mnemo {

struct ExpectedTensor {
  std::string name;
  Shape shape;
};

// Immutable and thread-safe. `fs` outlives it.
class ModelSource {
 public:
  // `path` is a model directory, a checkpoint, or what holds checkpoints (a run, or its
  // checkpoints/), of which the newest whole one is taken. NotFound if it is none of these.
  static absl::StatusOr<ModelSource> Open(FileSystem& fs, const std::string& path);

  const std::string& directory() const { return directory_; }
  std::string config_name() const;  // the file, for messages
  absl::StatusOr<ModelDescription> Describe() const;
  // Whether it holds these parameters and no others: if not, one error that lists all that are
  // missing, left over, of another shape or not of numbers.
  absl::Status Check(std::span<const ExpectedTensor> expected) const;
  // A part of a parameter, verified and converted to `dtype`, in host memory.
  absl::StatusOr<Tensor> ReadBox(const std::string& name, const Box& box, DType dtype) const;
  // All of what is expected, in its order, once it is checked.
  absl::StatusOr<std::vector<Tensor>> Read(std::span<const ExpectedTensor> expected,
                                           DType dtype) const;

 private:
  struct Kind {
    DType dtype;
    Shape shape;
  };
  ModelSource(FileSystem& fs, std::string directory) : fs_(&fs), directory_(std::move(directory)) {}
  std::string weights_name() const;
  std::map<std::string, Kind> Parameters() const;

  FileSystem* fs_;
  std::string directory_;
  // One of them.
  std::optional<CheckpointReader> checkpoint_;
  std::optional<ModelWeights> weights_;
};

}  // namespace mnemo
