// The index of tensors that lie in several safetensors files, as other tools read and write it:
//
//   {"metadata": {"total_size": 24}, "weight_map": {"a.weight":
//   "model-00001-of-00002.safetensors"}}
//
// Written here it also has, in its metadata, "header_xxh3_128": the digest of each file's header,
// which holds the digests of the file's tensors. So a file of another export is found without being
// read.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace mnemo {

struct SafetensorsIndex {
  std::map<std::string, std::string, std::less<>> files;           // of every tensor, by its name
  std::map<std::string, std::string, std::less<>> header_digests;  // hex, by file; may be empty
  std::optional<int64_t> total_bytes;                              // of all tensors
};

std::string PrintSafetensorsIndex(const SafetensorsIndex& index);

// Checks that files are plain names that end in ".safetensors" (no folder, no ".."), that no tensor
// is named twice and that the digests, if there are any, are of exactly these files. Other metadata
// is skipped. On failure the message says what is wrong, without the file.
absl::StatusOr<SafetensorsIndex> ParseSafetensorsIndex(std::string_view text);

}  // namespace mnemo
