// The output directory of prepare: new, or of a run that was killed.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "src/data/prepare.h"
#include "src/data/prepare_manifest.h"

namespace mnemo {

inline constexpr const char* kTrainedModel = "tokenizer.model";

struct PreparedDirectory {
  PrepareManifest manifest;
  std::unique_ptr<Tokenizer> tokenizer;
};

// Makes the directory, gets the tokenizer (calling `train` if one must be trained) and writes the
// first manifest; or, if the directory holds a manifest of the same settings, goes on from that.
// FailedPrecondition if it holds other data and `overwrite` is off; settings with which no shard
// was finished are forgotten.
absl::StatusOr<PreparedDirectory> OpenPreparedDirectory(
    FileSystem& fs, const PrepareOptions& options,
    const std::function<absl::StatusOr<std::string>()>& train);

}  // namespace mnemo
