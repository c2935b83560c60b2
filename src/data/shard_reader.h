// Reads one token shard (docs/shard_format.md). The header's digest is checked at opening, each
// block's when the block is first read, before any of its bytes is used.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/data/shard_format.h"

namespace mnemo {

// Thread-safe. Memory: 16 bytes and a bit for each block of the shard, and one block while reading.
class ShardReader {
 public:
  // NotFound if the file cannot be opened; DataLoss, naming the file and what is wrong, if it is
  // not a whole shard of a version that this program reads. With `keep_open` false the file is
  // opened for each read, which saves file descriptors when there are very many shards.
  static absl::StatusOr<std::unique_ptr<ShardReader>> Open(const std::string& path,
                                                           bool keep_open = true);

  const std::string& path() const { return path_; }
  const ShardHeader& header() const { return header_; }
  const Digest& digest() const { return header_digest_; }  // of the header; covers all contents

  // Tokens [first, first + out.size()). DataLoss names the file and the damaged block.
  absl::Status ReadTokens(int64_t first, std::span<int32_t> out);
  // Entries [first, first + out.size()) of the offsets: document i is tokens
  // [offset i, offset i + 1), its last token the separator. There are documents + 1.
  absl::Status ReadOffsets(int64_t first, std::span<uint64_t> out);
  // The tokenizer's model, checked against the tokenizer's hash.
  absl::StatusOr<std::string> ReadTokenizerModel();

  // Reads everything once, cached or not: all digests, the order of the offsets, the model.
  absl::Status Verify();

 private:
  struct Blocked {  // a dataset with a digest for each block
    std::string name;
    Hdf5Type type = Hdf5Type::kUint8;
    int64_t rows = 0;
    int64_t row_bytes = 1;
    std::string digests;              // 16 bytes a block
    std::vector<bool> verified;       // a block
    std::optional<Hdf5Dataset> data;  // while the file is open
  };
  ShardReader(std::string path, bool keep_open) : path_(std::move(path)), keep_open_(keep_open) {}
  absl::Status ReadHeader(const Hdf5File& file);
  absl::Status OpenBlocked(const Hdf5File& file, const std::string& digest_name, int64_t blocks,
                           Blocked& blocked);
  absl::Status OpenFile();
  void CloseFile();
  absl::Status ReadBlocked(Blocked& blocked, int64_t first, int64_t count, void* out);
  absl::Status CopyBlocks(Blocked& blocked, int64_t first, int64_t count, char* out);
  absl::Status ReadBlock(Blocked& blocked, int64_t block);
  absl::Status CheckTokens() const;

  std::string path_;
  bool keep_open_;
  ShardHeader header_;
  Digest header_digest_;
  std::mutex mutex_;  // guards what follows
  std::optional<Hdf5File> file_;
  Blocked tokens_;
  Blocked offsets_;
  std::string scratch_;  // one block, while it is verified
};

}  // namespace mnemo
