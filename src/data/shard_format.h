// The token shard's layout, in one place for writer and reader. docs/shard_format.md is the
// specification.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "src/core/digest.h"
#include "src/data/hdf5.h"

namespace mnemo {

inline constexpr std::string_view kShardFormat = "mnemosyne-token-shard";
inline constexpr uint64_t kShardSchemaVersion = 1;
inline constexpr int64_t kShardBlockBytes = int64_t{1} << 20;  // what one digest covers

// What the tokens of a shard mean. Shards of one data set agree in all of it.
struct ShardTokenizer {
  std::string kind;  // "bytes" or "sentencepiece"
  Digest hash;       // of kind and model, see Tokenizer::hash()
  int64_t vocabulary = 0;
  int32_t separator = 0;  // the token that ends every document
  bool operator==(const ShardTokenizer&) const = default;
};

struct ShardHeader {
  ShardTokenizer tokenizer;
  int64_t tokens = 0;  // separators included
  int64_t documents = 0;

  Hdf5Type token_type() const {
    return tokenizer.vocabulary <= 65536 ? Hdf5Type::kUint16 : Hdf5Type::kUint32;
  }
  int64_t token_bytes() const { return tokenizer.vocabulary <= 65536 ? 2 : 4; }
  int64_t token_blocks() const { return Blocks(tokens * token_bytes()); }
  int64_t offset_blocks() const { return Blocks((documents + 1) * 8); }

 private:
  static int64_t Blocks(int64_t bytes) { return (bytes + kShardBlockBytes - 1) / kShardBlockBytes; }
};

// The digest that covers every attribute and both digest lists (16 bytes a block), and through
// them the whole shard.
Digest HeaderDigest(const ShardHeader& header, std::string_view token_digests,
                    std::string_view offset_digests);

// Only characters that every file system takes.
std::string ShardFileName(std::string_view split, int64_t index);  // "train-00007.h5"

}  // namespace mnemo
