#pragma once

#include <string>
#include <vector>

#include "src/data/prepare.h"
#include "tests/data/data_test_util.h"

namespace mnemo {

// The documents of a split of prepared data, as text, in order.
inline std::vector<std::string> PreparedText(const std::string& directory, ShardRole role) {
  auto set = TokenSet::Open({directory}, role);
  EXPECT_OK(set);
  if (!set.ok()) return {};
  auto tokenizer = (*set)->LoadTokenizer();
  EXPECT_OK(tokenizer);
  std::vector<std::string> texts;
  for (int i = 0; i < (*set)->shards(); ++i) {
    ShardReader& shard = (*set)->shard(i);
    EXPECT_OK(shard.Verify());
    std::vector<uint64_t> offsets(static_cast<size_t>(shard.header().documents) + 1);
    EXPECT_OK(shard.ReadOffsets(0, offsets));
    for (size_t d = 0; d + 1 < offsets.size(); ++d) {
      std::vector<int32_t> tokens(offsets[d + 1] - offsets[d]);
      EXPECT_OK(shard.ReadTokens(static_cast<int64_t>(offsets[d]), tokens));
      EXPECT_EQ(tokens.back(), (*tokenizer)->separator());
      texts.push_back(*(*tokenizer)->Decode(tokens));
    }
  }
  return texts;
}

inline absl::StatusOr<PrepareSummary> RunPrepare(const PrepareOptions& options) {
  return Prepare(FileSystem::Posix(), options);
}

}  // namespace mnemo
