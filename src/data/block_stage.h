// A plain temporary file of digested blocks: where a shard's tokens and offsets wait until their
// number is known.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "src/core/file_system.h"
#include "src/data/hdf5.h"

namespace mnemo::internal {

// Not thread-safe. The destructor removes the file.
class BlockStage {
 public:
  static absl::StatusOr<std::unique_ptr<BlockStage>> Create(FileSystem& fs,
                                                            const std::string& path);
  ~BlockStage();

  absl::Status Append(std::string_view bytes);
  // Ends the last block. No Append() after this.
  absl::Status Finish();

  int64_t bytes() const { return bytes_; }
  const std::string& digests() const { return digests_; }  // 16 bytes a block

  // Copies everything into `dataset`, whose rows are `row_bytes` long, and checks each block's
  // digest on the way, as the disk may have changed what was written. After Finish().
  absl::Status CopyTo(Hdf5Dataset& dataset, int64_t row_bytes) const;

 private:
  BlockStage(FileSystem& fs, std::string path) : fs_(fs), path_(std::move(path)) {}
  absl::Status FlushBlock();

  FileSystem& fs_;
  std::string path_;
  std::unique_ptr<WritableFile> file_;
  std::string block_;
  std::string digests_;
  int64_t bytes_ = 0;
};

}  // namespace mnemo::internal
