// The weights that a run begins with where train.init_from names some: those of another training of
// the same model, in any form in which they are stored. Nothing else is taken from there.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "src/core/file_system.h"
#include "src/data/shard_format.h"
#include "src/job/trainer.h"

namespace mnemo {

// The directory to read: train.init_from, or its newest whole checkpoint; empty if that is. Reads
// no contents, but checks that they suit the run. FailedPrecondition if they are of another model
// (the first setting of `model` that differs is named, else the tensors) or another tokenizer, or
// lie in `run_directory`, where the run writes. What the same weights may be used with, such as
// another window, is a warning. `config` is effective, `tokenizer` that of the shards.
absl::StatusOr<std::string> FindInitialWeights(FileSystem& fs, const v1::RunConfig& config,
                                               const ShardTokenizer& tokenizer,
                                               const std::string& run_directory);

// Reads all of them once, on one rank, so that damage is known before anything depends on them.
// `directory` as FindInitialWeights returned it; nothing to do if it is empty.
absl::Status VerifyInitialWeights(FileSystem& fs, const std::string& directory,
                                  const v1::ModelConfig& model);

// Gives a trainer, just made, the weights in `directory`, as FindInitialWeights returned it. Every
// rank of the job calls it, reads and verifies its share of what it holds, and returns the same
// Status. Steps are then the same on every mesh, to rounding.
absl::Status ReadInitialWeights(FileSystem& fs, const std::string& directory, Trainer& trainer);

}  // namespace mnemo
