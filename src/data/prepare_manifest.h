// prepare.json in a directory of prepared data: what was asked for and what is finished. It is
// replaced, atomically, after every shard; a run that was killed goes on from it.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/core/digest.h"
#include "src/core/file_system.h"

namespace mnemo {

inline constexpr const char* kPrepareManifest = "prepare.json";
inline constexpr std::array<const char*, 2> kSplitNames = {"train", "eval"};
enum Split { kTrain = 0, kEval = 1 };

struct FinishedShard {
  std::string file;  // its name in the directory
  int64_t tokens = 0;
  int64_t documents = 0;
};

// What the finished shards of one split were made from: its first `documents` documents of the
// input, empty ones included, and a digest chained over their text. On going on these documents are
// read and checked against the digest, but not tokenised again.
struct SplitProgress {
  int64_t documents = 0;
  Digest chain;
  std::vector<FinishedShard> shards;
};

// A file of the input as it was when reading began. Says without reading that nothing has changed.
struct PreparedInput {
  std::string path;                  // as it was given
  int64_t size = -1, modified = -1;  // as of InputFile
  bool operator==(const PreparedInput&) const = default;
};

struct PrepareManifest {
  nlohmann::ordered_json settings;  // everything that the output depends on, besides the input
  std::array<SplitProgress, 2> splits;
  std::vector<PreparedInput> inputs;  // in order; those of the last run that went on
  bool complete = false;

  // nullopt if there is none. DataLoss if it cannot be understood.
  static absl::StatusOr<std::optional<PrepareManifest>> Load(FileSystem& fs,
                                                             const std::string& directory);
  absl::Status Save(FileSystem& fs, const std::string& directory) const;
};

}  // namespace mnemo
