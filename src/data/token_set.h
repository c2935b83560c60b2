// A data set: shards in order, read as one long run of tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/data/shard_reader.h"
#include "src/data/tokenizer.h"

namespace mnemo {

enum class ShardRole { kTraining, kEvaluation };

// The shards that `paths` name, in order. Each path is a file, a pattern ("data/train-*.h5"; the
// last component only), or a directory: of a directory's *.h5 files, those named eval-* are for
// evaluation and the others for training, so that one directory can be given for both without
// training on held-out text. A directory without any eval-* serves evaluation with all of its
// shards: it holds other text, which whoever trains makes sure of with FirstSharedShard(). Sorted
// by name. Errors say which path is missing, matches nothing, or is a directory whose preparation
// has not finished.
absl::StatusOr<std::vector<std::string>> ResolveShards(const std::vector<std::string>& paths,
                                                       ShardRole role);

// The first file of `evaluation` that is one of `training` as well, links followed; empty if there
// is none. A loss on such a shard is not held-out. Copies of files are not noticed.
std::string FirstSharedShard(const std::vector<std::string>& training,
                             const std::vector<std::string>& evaluation);

// Thread-safe and immutable once open.
class TokenSet {
 public:
  // Opens every shard and checks its header. InvalidArgument names two shards that differ in
  // tokenizer or vocabulary; a shard given twice is an error too.
  static absl::StatusOr<std::unique_ptr<TokenSet>> Open(const std::vector<std::string>& paths,
                                                        ShardRole role);

  int64_t tokens() const { return starts_.back(); }
  int64_t documents() const { return documents_; }
  const ShardTokenizer& tokenizer() const { return shards_[0]->header().tokenizer; }
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const;

  std::vector<std::string> files() const;  // its shards, as they were named
  int shards() const { return static_cast<int>(shards_.size()); }
  ShardReader& shard(int i) const { return *shards_[static_cast<size_t>(i)]; }
  int64_t start(int i) const { return starts_[static_cast<size_t>(i)]; }  // its first token

  // Tokens [first, first + out.size()) of the whole run.
  absl::Status ReadTokens(int64_t first, std::span<int32_t> out) const;

 private:
  std::vector<std::unique_ptr<ShardReader>> shards_;
  std::vector<int64_t> starts_;  // shards + 1
  int64_t documents_ = 0;
};

}  // namespace mnemo
