#include "src/ckpt/safetensors_index.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "src/ckpt/strict_json.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

using IndexJson = nlohmann::json;

constexpr const char *kMetadata = "metadata", *kWeightMap = "weight_map",
                     *kTotalSize = "total_size", *kHeaderDigests = "header_xxh3_128";
constexpr std::string_view kSuffix = ".safetensors";
constexpr int kMaxIndexDepth = 8;  // foreign metadata may be anything

absl::StatusOr<std::string> ParseFileName(const std::string& tensor, const IndexJson& json) {
  const std::string name = json.is_string() ? json.get<std::string>() : "";
  if (name.size() > kSuffix.size() && name.ends_with(kSuffix) && !name.starts_with('.') &&
      name.find('/') == name.npos && name.find('\0') == name.npos) {
    return name;
  }
  return DataLoss(
      "the file of tensor \"{}\" is {}; it must be the plain name of a *.safetensors file beside "
      "the index",
      tensor, QuoteJson(json));
}

absl::Status ParseHeaderDigests(const IndexJson& json, SafetensorsIndex& index) {
  if (!json.is_object()) return DataLoss("{} is not an object", kHeaderDigests);
  std::set<std::string_view> files;
  for (const auto& [tensor, file] : index.files) files.insert(file);
  for (const auto& [file, digest] : json.items()) {
    if (!digest.is_string()) return DataLoss("{}: {} is no digest", kHeaderDigests, file);
    if (files.erase(file) == 0) {
      return DataLoss("{} is of \"{}\", which holds no tensor", kHeaderDigests, file);
    }
    index.header_digests[file] = digest.get<std::string>();
  }
  if (files.empty()) return absl::OkStatus();
  return DataLoss("{} lacks {}", kHeaderDigests, *files.begin());
}

absl::Status ParseIndexMetadata(const IndexJson& json, SafetensorsIndex& index) {
  if (!json.is_object()) return DataLoss("{} is not an object", kMetadata);
  if (const auto size = json.find(kTotalSize); size != json.end()) {
    if (!size->is_number_unsigned() ||
        size->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return DataLoss("{} is {}, not a number of bytes", kTotalSize, QuoteJson(*size));
    }
    index.total_bytes = size->get<int64_t>();
  }
  const auto digests = json.find(kHeaderDigests);
  return digests == json.end() ? absl::OkStatus() : ParseHeaderDigests(*digests, index);
}

}  // namespace

std::string PrintSafetensorsIndex(const SafetensorsIndex& index) {
  IndexJson json = {{kMetadata, IndexJson::object()}, {kWeightMap, index.files}};
  if (index.total_bytes) json[kMetadata][kTotalSize] = *index.total_bytes;
  if (!index.header_digests.empty()) json[kMetadata][kHeaderDigests] = index.header_digests;
  return json.dump(2, ' ', false, IndexJson::error_handler_t::replace) + "\n";
}

absl::StatusOr<SafetensorsIndex> ParseSafetensorsIndex(std::string_view text) {
  MNEMO_ASSIGN_OR_RETURN(const IndexJson json,
                         ParseJsonStrictly(text, "the index", kMaxIndexDepth));
  const auto map = json.find(kWeightMap);
  if (map == json.end() || !map->is_object() || map->empty()) {
    return DataLoss("there is no {} that says in which file each tensor is", kWeightMap);
  }
  SafetensorsIndex index;
  for (const auto& [tensor, file] : map->items()) {
    MNEMO_ASSIGN_OR_RETURN(index.files[tensor], ParseFileName(tensor, file));
  }
  if (const auto metadata = json.find(kMetadata); metadata != json.end()) {
    MNEMO_RETURN_IF_ERROR(ParseIndexMetadata(*metadata, index));
  }
  return index;
}

}  // namespace mnemo
