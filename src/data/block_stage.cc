#include "src/data/block_stage.h"

#include <algorithm>

#include "src/core/digest.h"
#include "src/core/status.h"
#include "src/data/shard_format.h"

namespace mnemo::internal {

absl::StatusOr<std::unique_ptr<BlockStage>> BlockStage::Create(FileSystem& fs,
                                                               const std::string& path) {
  std::unique_ptr<BlockStage> stage(new BlockStage(fs, path));
  MNEMO_ASSIGN_OR_RETURN(stage->file_, fs.Create(path));
  stage->block_.reserve(kShardBlockBytes);
  return stage;
}

BlockStage::~BlockStage() {
  file_.reset();
  if (fs_.Exists(path_)) fs_.Remove(path_).IgnoreError();
}

absl::Status BlockStage::Append(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t take = std::min<size_t>(bytes.size(), kShardBlockBytes - block_.size());
    block_.append(bytes.substr(0, take));
    bytes.remove_prefix(take);
    bytes_ += static_cast<int64_t>(take);
    if (block_.size() == kShardBlockBytes) MNEMO_RETURN_IF_ERROR(FlushBlock());
  }
  return absl::OkStatus();
}

absl::Status BlockStage::FlushBlock() {
  const Digest digest = DigestOf(block_);
  digests_.append(reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size());
  MNEMO_RETURN_IF_ERROR(file_->Append(block_));
  block_.clear();
  return absl::OkStatus();
}

absl::Status BlockStage::Finish() {
  if (!block_.empty()) MNEMO_RETURN_IF_ERROR(FlushBlock());
  return file_->Close();
}

absl::Status BlockStage::CopyTo(Hdf5Dataset& dataset, int64_t row_bytes) const {
  std::string block;
  for (int64_t at = 0; at < bytes_; at += kShardBlockBytes) {
    block.resize(static_cast<size_t>(std::min(kShardBlockBytes, bytes_ - at)));
    MNEMO_RETURN_IF_ERROR(fs_.ReadRange(path_, at, block));
    const Digest digest = DigestOf(block);
    const size_t index = static_cast<size_t>(at / kShardBlockBytes) * digest.bytes.size();
    if (digests_.compare(index, digest.bytes.size(),
                         reinterpret_cast<const char*>(digest.bytes.data()),
                         digest.bytes.size()) != 0) {
      return DataLoss("{} changed on disk after it was written: check the disk", path_);
    }
    MNEMO_RETURN_IF_ERROR(dataset.Write(
        at / row_bytes, static_cast<int64_t>(block.size()) / row_bytes, block.data()));
  }
  return absl::OkStatus();
}

}  // namespace mnemo::internal
