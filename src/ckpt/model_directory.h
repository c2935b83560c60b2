// A model on disk: a directory with
//   model.safetensors   the parameters, or several such files with an index (model_weights.h)
//   config.json         the effective run configuration and a description of the tokenizer
//   tokenizer.model     the tokenizer's model, where its kind has one
// docs/model.md describes the contents.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "src/ckpt/model_weights.h"
#include "src/ckpt/safetensors.h"
#include "src/core/file_system.h"

namespace mnemo {

// Enough to make the tokenizer again.
struct ModelTokenizer {
  std::string kind;  // "bytes" or "sentencepiece"
  std::string hash;  // of kind and model, in hex
  int64_t vocabulary = 0;
  int32_t separator = 0;
  std::string model;  // may be empty
};

struct ModelDescription {
  v1::RunConfig config;  // effective: every default filled in, model.vocabulary set
  ModelTokenizer tokenizer;
};

// Writes everything to `directory + ".tmp"` and renames it, so that `directory` holds a whole model
// at any time, but for one moment when it replaces another: that one is then at
// `directory + ".old"`, and removed only when the new one is in its place. One tensor at a time is
// held; files have at most `shard_bytes` of them. Returns the number of files with weights.
// FailedPrecondition, with nothing changed, if `directory` exists and holds anything that is not
// part of a model.
absl::StatusOr<int> WriteModelDirectory(FileSystem& fs, const std::string& directory,
                                        const ModelDescription& description,
                                        std::span<const StreamedTensor> tensors,
                                        int64_t shard_bytes = kDefaultShardBytes);

// Reads config.json and the tokenizer's model. The configuration is not checked for sense.
absl::StatusOr<ModelDescription> ReadModelDescription(FileSystem& fs, const std::string& directory);

// config.json's text, and back. `name` heads the errors.
std::string PrintModelConfig(const ModelDescription& description);
absl::StatusOr<ModelDescription> ParseModelConfig(const std::string& text, const std::string& name);

}  // namespace mnemo
