// The library behind `mnemo data inspect`.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "src/data/shard_format.h"

namespace mnemo {

struct ShardFacts {
  std::string path;
  ShardHeader header;
  int64_t file_bytes = 0;
  absl::Status status;    // of opening, then of verifying
  bool verified = false;  // everything was read and matched
};

// Opens each shard, reads all of it where `verify` is set, and hands the facts over one by one, bad
// ones included. `paths`: files, and directories for all of their *.h5. Returns an error if a path
// names no shard, or, after the last, if any shard was bad.
absl::Status InspectShards(const std::vector<std::string>& paths, bool verify,
                           const std::function<void(const ShardFacts&)>& each);

}  // namespace mnemo
