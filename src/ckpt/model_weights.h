// The weights in a model directory: all in model.safetensors, or, where that would be too large, in
// model-00001-of-00003.safetensors and so on, with model.safetensors.index.json to say which tensor
// is where. Other tools read both.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "src/ckpt/box.h"
#include "src/ckpt/safetensors.h"
#include "src/core/file_system.h"
#include "src/core/tensor.h"

namespace mnemo {

inline constexpr std::string_view kWeightsName = "model.safetensors";
inline constexpr std::string_view kWeightsIndexName = "model.safetensors.index.json";
// Of the tensors in one file; what other tools take.
inline constexpr int64_t kDefaultShardBytes = 5'000'000'000;

// Whether a file of this name is written here.
bool IsWeightsName(std::string_view name);

// Writes the tensors, in their order, to files of at most `shard_bytes` of them each, or of one
// tensor; to one file without an index if all fit. One tensor at a time is held. The index is
// written last. Returns the number of files, without the index. `directory` holds no weights yet.
absl::StatusOr<int> WriteModelWeights(FileSystem& fs, const std::string& directory,
                                      std::span<const StreamedTensor> tensors, int64_t shard_bytes);

// Immutable and thread-safe. `fs` outlives it.
class ModelWeights {
 public:
  // Reads the headers, and the index if there is one: the two must say the same. DataLoss, naming
  // the file and the fault, if not; FailedPrecondition if both kinds of weights are there, of which
  // one is left from something else.
  static absl::StatusOr<ModelWeights> Open(FileSystem& fs, const std::string& directory);

  const std::string& path() const { return path_; }  // of the index, or of the file
  struct Entry {
    DType dtype;
    Shape shape;
    std::shared_ptr<const SafetensorsReader> file;
  };
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }
  // As of SafetensorsReader.
  absl::StatusOr<Tensor> ReadBox(std::string_view name, const Box& box) const;

 private:
  absl::Status AddFile(FileSystem& fs, const std::string& path);
  absl::Status AddIndexed(FileSystem& fs, const std::string& directory);

  std::string path_;
  std::map<std::string, std::shared_ptr<const SafetensorsReader>> files_;  // by path
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace mnemo
