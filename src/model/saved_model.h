// A model with all that is needed to use it: configuration, parameters, tokenizer.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "src/ckpt/model_weights.h"
#include "src/core/file_system.h"
#include "src/data/tokenizer.h"
#include "src/model/parameters.h"
#include "src/model/spec.h"

namespace mnemo {

struct SavedModel {
  v1::RunConfig config;  // effective
  ModelSpec spec;
  ParameterSet parameters;  // of the dtype and on the device that config.execution says
  std::unique_ptr<const Tokenizer> tokenizer;
};

// Writes a model directory (see src/ckpt/model_directory.h for what happens to an older one).
absl::Status SaveModel(FileSystem& fs, const std::string& directory, const v1::RunConfig& config,
                       const ParameterSet& parameters, const Tokenizer& tokenizer);

// Reads one, or that of a checkpoint (ModelSource::Open). `overrides` are "path=value" for
// execution.*; anything else is InvalidArgument, because the weights go with the rest of the
// configuration.
absl::StatusOr<SavedModel> LoadModel(FileSystem& fs, const std::string& directory,
                                     std::span<const std::string> overrides = {});

struct ExportedModel {
  int64_t parameters = 0;
  int files = 0;  // that hold them
};
// Reads the model in `from`, likewise, whatever device it was made for, and writes it to `to` with
// its parameters as f32: one tensor at a time, in files of at most `shard_bytes`.
absl::StatusOr<ExportedModel> ExportModel(FileSystem& fs, const std::string& from,
                                          const std::string& to,
                                          int64_t shard_bytes = kDefaultShardBytes);

}  // namespace mnemo
