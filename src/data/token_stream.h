// A data set as one stream of positions, each with a token, its target and, where documents have
// fresh state, resets.
//
// DocumentLayout::kConcatenated: position p is token p of the data set, its target token p + 1. The
// last token has no target and is no position. No resets.
//
// DocumentLayout::kAligned: every document starts at a multiple of `alignment` (the model's chunk;
// MAC: its segment) and is padded to one with separators. Its separator and the padding have no
// target. A reset stands at each group of `alignment` positions in which a document starts.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "src/data/token_set.h"

namespace mnemo {

enum class DocumentLayout { kConcatenated, kAligned };

inline constexpr int32_t kNoTarget = -1;

// Thread-safe and immutable. Memory: 32 bytes for 1,024 documents (aligned layout).
class TokenStream {
 public:
  // Reads every shard's document offsets once in the aligned layout, nothing otherwise.
  // InvalidArgument if alignment < 1 or the data set is too small for one position.
  static absl::StatusOr<std::unique_ptr<TokenStream>> Open(std::shared_ptr<const TokenSet> set,
                                                           DocumentLayout layout,
                                                           int64_t alignment);

  int64_t length() const { return length_; }  // positions
  int64_t alignment() const { return alignment_; }
  const TokenSet& set() const { return *set_; }

  // Positions [begin, begin + tokens.size()): the token of each, its target (kNoTarget without),
  // and for each group of `alignment` positions whether a document starts there. Sizes:
  // tokens = targets = n, resets = ceil(n / alignment). In the aligned layout `begin` is a multiple
  // of the alignment. Returns the number of targets.
  absl::StatusOr<int64_t> Read(int64_t begin, std::span<int32_t> tokens, std::span<int32_t> targets,
                               std::span<uint8_t> resets) const;

  // Where the document of a position starts; 0 in the concatenated layout, where documents do not
  // matter.
  absl::StatusOr<int64_t> DocumentStart(int64_t position) const;

  // The number of targets at positions [begin, end), without reading tokens.
  absl::StatusOr<int64_t> CountTargets(int64_t begin, int64_t end) const;

 private:
  // Up to 1,024 documents of one shard.
  struct Group {
    int64_t position;        // of its first document
    int64_t first_document;  // in the shard
    int64_t targets;         // before it in the stream
    int32_t shard;
    int32_t documents;
  };
  struct Document {
    int64_t position;  // in the stream
    int64_t token;     // its first, in the shard
    int64_t length;    // tokens, separator included
    int64_t targets;   // before it in the stream
  };

  TokenStream() = default;
  absl::Status BuildGroups();
  const Group& GroupAt(int64_t position) const;
  absl::StatusOr<std::vector<Document>> Documents(const Group& group) const;
  absl::StatusOr<int64_t> TargetsBefore(int64_t position) const;
  absl::StatusOr<int64_t> ReadConcatenated(int64_t begin, std::span<int32_t> tokens,
                                           std::span<int32_t> targets) const;
  absl::StatusOr<int64_t> ReadAligned(int64_t begin, std::span<int32_t> tokens,
                                      std::span<int32_t> targets, std::span<uint8_t> resets) const;
  int64_t Padded(int64_t length) const;

  std::shared_ptr<const TokenSet> set_;
  DocumentLayout layout_ = DocumentLayout::kConcatenated;
  int64_t alignment_ = 1;
  int64_t length_ = 0;
  int64_t targets_ = 0;
  std::vector<Group> groups_;  // by position
};

}  // namespace mnemo
