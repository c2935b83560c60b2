#include "src/ckpt/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "src/ckpt/strict_json.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

using Json = nlohmann::json;

constexpr DType kDTypes[] = {DType::kF32, DType::kF64, DType::kBF16, DType::kI32};
constexpr int kMaxDepth = 3;  // {"name": {"shape": [..]}}
constexpr size_t kMaxRank = 8;

std::optional<int64_t> Count(const Json& json) {
  if (!json.is_number_unsigned()) return std::nullopt;
  const uint64_t value = json.get<uint64_t>();
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return static_cast<int64_t>(value);
}

absl::StatusOr<DType> ParseDType(const std::string& name, const Json& json) {
  for (const DType dtype : kDTypes) {
    if (json == SafetensorsName(dtype)) return dtype;
  }
  return DataLoss("tensor \"{}\" has dtype {}; F32, F64, BF16 and I32 can be read", name,
                  QuoteJson(json));
}

absl::StatusOr<SafetensorsEntry> ParseEntry(const std::string& name, const Json& json,
                                            int64_t data_bytes) {
  if (!json.is_object() || json.size() != 3 || !json.contains("dtype") || !json.contains("shape") ||
      !json.contains("data_offsets")) {
    return DataLoss("tensor \"{}\" needs dtype, shape and data_offsets, and nothing else", name);
  }
  SafetensorsEntry entry;
  MNEMO_ASSIGN_OR_RETURN(entry.dtype, ParseDType(name, json["dtype"]));
  const Json &shape = json["shape"], &offsets = json["data_offsets"];
  if (!shape.is_array() || shape.size() > kMaxRank) {
    return DataLoss("tensor \"{}\": its shape is not a list of at most {} numbers", name, kMaxRank);
  }
  entry.bytes = SizeOf(entry.dtype);
  for (const Json& item : shape) {
    const std::optional<int64_t> dim = Count(item);
    if (!dim || __builtin_mul_overflow(entry.bytes, *dim, &entry.bytes)) {
      return DataLoss("tensor \"{}\": impossible shape", name);
    }
    entry.shape.push_back(*dim);
  }
  const std::optional<int64_t> begin =
      offsets.is_array() && offsets.size() == 2 ? Count(offsets[0]) : std::nullopt;
  const std::optional<int64_t> end = begin ? Count(offsets[1]) : std::nullopt;
  if (!end || *begin > *end) {
    return DataLoss("tensor \"{}\": data_offsets are not a range", name);
  }
  if (*end > data_bytes) {
    return DataLoss("tensor \"{}\" ends at byte {} of the data, which has {}: truncated?", name,
                    *end, data_bytes);
  }
  if (*end - *begin != entry.bytes) {
    return DataLoss("tensor \"{}\": {} bytes for shape {}, which takes {}", name, *end - *begin,
                    ToString(entry.shape), entry.bytes);
  }
  entry.offset = *begin;
  return entry;
}

// The ranges, put in order, must follow each other from the first byte to the last.
absl::Status CheckCover(const SafetensorsHeader& header, int64_t data_bytes) {
  std::vector<std::pair<const std::string*, const SafetensorsEntry*>> order;
  for (const auto& [name, entry] : header.entries) order.emplace_back(&name, &entry);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->offset, a.second->bytes) <
           std::pair(b.second->offset, b.second->bytes);
  });
  int64_t next = 0;
  for (const auto& [name, entry] : order) {
    if (entry->offset != next) {
      return DataLoss("tensor \"{}\" begins at byte {} of the data, {} the one before it, at {}",
                      *name, entry->offset, entry->offset < next ? "inside" : "with a gap after",
                      next);
    }
    next += entry->bytes;
  }
  if (next != data_bytes) {
    return DataLoss("{} bytes follow the last tensor", data_bytes - next);
  }
  return absl::OkStatus();
}

// Sorts the metadata into digests and the rest. Either every tensor has a digest, or none.
absl::Status ParseMetadata(const Json& json, SafetensorsHeader& header) {
  if (!json.is_object()) return DataLoss("{} is not an object", kSafetensorsMetadata);
  size_t digests = 0;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) {
      return DataLoss("{}: \"{}\" is not a string", kSafetensorsMetadata, key);
    }
    if (!std::string_view(key).starts_with(kDigestPrefix)) {
      header.metadata[key] = value.get<std::string>();
      continue;
    }
    const auto found = header.entries.find(std::string_view(key).substr(kDigestPrefix.size()));
    if (found == header.entries.end()) {
      return DataLoss("\"{}\" is the digest of no tensor in the file", key);
    }
    found->second.digest = value.get<std::string>();
    ++digests;
  }
  if (digests != 0 && digests != header.entries.size()) {
    return DataLoss("{} of {} tensors have a digest", digests, header.entries.size());
  }
  return absl::OkStatus();
}

}  // namespace

const char* SafetensorsName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF64:
      return "F64";
    case DType::kBF16:
      return "BF16";
    case DType::kI32:
      return "I32";
  }
  return "";
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view text,
                                                         int64_t data_bytes) {
  Json json;
  MNEMO_ASSIGN_OR_RETURN(json, ParseJsonStrictly(text, "the header", kMaxDepth));
  SafetensorsHeader header;
  for (const auto& [name, value] : json.items()) {
    if (name == kSafetensorsMetadata) continue;
    MNEMO_ASSIGN_OR_RETURN(header.entries[name], ParseEntry(name, value, data_bytes));
  }
  MNEMO_RETURN_IF_ERROR(CheckCover(header, data_bytes));
  const auto metadata = json.find(std::string(kSafetensorsMetadata));
  if (metadata != json.end()) MNEMO_RETURN_IF_ERROR(ParseMetadata(*metadata, header));
  return header;
}

}  // namespace mnemo
