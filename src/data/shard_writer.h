// Writes one token shard (docs/shard_format.md). HDF5's contiguous datasets have a fixed size, so
// tokens and document offsets first go to plain files beside the shard and are copied, block by
// block, when their number is known: memory stays at a few blocks whatever the shard's size, disk
// use reaches twice the shard's. The shard appears under its name whole, synced, or not at all.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "src/core/file_system.h"
#include "src/data/shard_format.h"

namespace mnemo {

namespace internal {
class BlockStage;
}

// Not thread-safe. After an error only destruction is allowed. The destructor removes what is
// unfinished.
class ShardWriter {
 public:
  // `path` is the shard's final name; `model` the tokenizer's serialised model. An existing shard
  // of that name stays until Finish() replaces it.
  static absl::StatusOr<std::unique_ptr<ShardWriter>> Create(FileSystem& fs,
                                                             const std::string& path,
                                                             const ShardTokenizer& tokenizer,
                                                             const std::string& model);
  ~ShardWriter();

  // Adds tokens to the open document; each in [0, vocabulary), else InvalidArgument.
  absl::Status Append(std::span<const int32_t> tokens);
  // Ends the open document with the separator. A document without tokens leaves no trace.
  absl::Status EndDocument();

  int64_t token_bytes() const;  // bytes of tokens so far, the open document included
  int64_t tokens() const { return header_.tokens; }
  int64_t documents() const { return header_.documents; }  // ended ones

  // Writes, syncs and renames. FailedPrecondition while a document is open.
  absl::StatusOr<ShardHeader> Finish();

 private:
  ShardWriter(FileSystem& fs, std::string path, ShardTokenizer tokenizer, std::string model);
  absl::Status WriteHdf5(const std::string& path);
  absl::Status FillHdf5(Hdf5File& file);

  FileSystem& fs_;
  std::string path_;
  std::string model_;
  ShardHeader header_;
  int64_t document_tokens_ = 0;  // of the open document
  std::unique_ptr<internal::BlockStage> token_stage_;
  std::unique_ptr<internal::BlockStage> offset_stage_;
};

}  // namespace mnemo
