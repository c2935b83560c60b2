#include "src/data/prepare_manifest.h"

#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr const char* kFormat = "mnemosyne-prepared-data";
constexpr int kVersion = 1;

Digest FromHex(const std::string& hex) {
  if (hex.size() != 32) throw std::invalid_argument("a digest has 32 digits");
  Digest digest;
  for (size_t i = 0; i < digest.bytes.size(); ++i) {
    digest.bytes[i] = static_cast<uint8_t>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  }
  return digest;
}

SplitProgress ParseSplit(const nlohmann::ordered_json& json) {
  SplitProgress split;
  split.documents = json.at("documents").get<int64_t>();
  split.chain = FromHex(json.at("chain").get<std::string>());
  for (const auto& shard : json.at("shards")) {
    split.shards.push_back({shard.at("file").get<std::string>(), shard.at("tokens").get<int64_t>(),
                            shard.at("documents").get<int64_t>()});
  }
  return split;
}

nlohmann::ordered_json ToJson(const SplitProgress& split) {
  nlohmann::ordered_json shards = nlohmann::ordered_json::array();
  for (const FinishedShard& shard : split.shards) {
    shards.push_back(
        {{"file", shard.file}, {"tokens", shard.tokens}, {"documents", shard.documents}});
  }
  return {{"documents", split.documents}, {"chain", split.chain.Hex()}, {"shards", shards}};
}

}  // namespace

absl::StatusOr<std::optional<PrepareManifest>> PrepareManifest::Load(FileSystem& fs,
                                                                     const std::string& directory) {
  const std::string path = directory + "/" + kPrepareManifest;
  if (!fs.Exists(path)) return std::nullopt;
  MNEMO_ASSIGN_OR_RETURN(std::string text, fs.ReadFile(path));
  PrepareManifest manifest;
  try {
    const auto json = nlohmann::ordered_json::parse(text);
    if (json.at("format") != kFormat || json.at("version") != kVersion) {
      throw std::invalid_argument("another format or version");
    }
    manifest.settings = json.at("settings");
    manifest.complete = json.at("complete").get<bool>();
    for (size_t i = 0; i < kSplitNames.size(); ++i) {
      manifest.splits[i] = ParseSplit(json.at("splits").at(kSplitNames[i]));
    }
    for (const auto& input : json.value("inputs", nlohmann::ordered_json::array())) {
      manifest.inputs.push_back({input.at("file").get<std::string>(),
                                 input.at("bytes").get<int64_t>(),
                                 input.at("modified").get<int64_t>()});
    }
  } catch (const std::exception& error) {
    return DataLoss("cannot understand {}: {}; prepare the data again, with --overwrite", path,
                    error.what());
  }
  return manifest;
}

absl::Status PrepareManifest::Save(FileSystem& fs, const std::string& directory) const {
  nlohmann::ordered_json json = {
      {"format", kFormat}, {"version", kVersion}, {"complete", complete}, {"settings", settings}};
  for (size_t i = 0; i < kSplitNames.size(); ++i)
    json["splits"][kSplitNames[i]] = ToJson(splits[i]);
  for (const PreparedInput& input : inputs) {
    json["inputs"].push_back(
        {{"file", input.path}, {"bytes", input.size}, {"modified", input.modified}});
  }
  return WriteFileAtomically(fs, directory + "/" + kPrepareManifest, json.dump(2) + "\n");
}

}  // namespace mnemo
