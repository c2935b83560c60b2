// The shards of one split, as prepare writes them.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "src/core/file_system.h"
#include "src/data/prepare_manifest.h"
#include "src/data/shard_writer.h"
#include "src/data/unit_feeder.h"

namespace mnemo {

// Not thread-safe.
class SplitWriter {
 public:
  // `manifest` belongs to both splits and is saved in `directory` after each shard.
  SplitWriter(FileSystem& fs, std::string directory, Split split, ShardTokenizer tokenizer,
              std::string model, int64_t shard_bytes, PrepareManifest& manifest);

  // The tokens of a unit of this split, in order. May finish a shard.
  absl::Status Add(const FedUnit& fed, std::span<const int32_t> tokens);
  absl::Status Finish();  // the last shard, if it has any document

  int64_t tokens() const;     // in all shards of the split
  int64_t documents() const;  // ended

 private:
  absl::Status FinishShard();
  SplitProgress& progress() const { return manifest_.splits[split_]; }

  FileSystem& fs_;
  const std::string directory_;
  const Split split_;
  const ShardTokenizer tokenizer_;
  const std::string model_;
  const int64_t shard_bytes_;
  PrepareManifest& manifest_;
  std::unique_ptr<ShardWriter> writer_;  // null between shards
  int64_t input_documents_ = 0;          // as in SplitProgress, up to the last ended document
  Digest chain_;
  int64_t finished_tokens_ = 0;
  int64_t finished_documents_ = 0;
};

}  // namespace mnemo
