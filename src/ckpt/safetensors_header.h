// The header of a safetensors file: its form, and what is checked before a byte range is believed.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "src/ckpt/safetensors.h"

namespace mnemo {

inline constexpr std::string_view kSafetensorsMetadata = "__metadata__";
inline constexpr std::string_view kDigestPrefix = "xxh3_128/";
// The limit that the format's own library sets.
inline constexpr int64_t kMaxSafetensorsHeader = 100'000'000;

const char* SafetensorsName(DType dtype);  // "F32"

struct SafetensorsHeader {
  std::map<std::string, SafetensorsEntry, std::less<>> entries;  // offsets from the data's start
  std::map<std::string, std::string> metadata;                   // without the digests
};

// `data_bytes` follow the header. On failure the message says what is wrong, without the file.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view text, int64_t data_bytes);

}  // namespace mnemo
