#include "src/data/prepare_directory.h"

#include <vector>

#include "src/core/status.h"

namespace mnemo {
namespace {

using nlohmann::ordered_json;

constexpr const char* kTokenizerHash = "tokenizer_hash";

// What the output depends on, but for the input and the tokenizer's hash.
ordered_json Settings(const PrepareOptions& options) {
  const char* const policies[] = {"error", "replace", "skip"};
  ordered_json settings = {{"tokenizer", options.tokenizer},
                           {"invalid_utf8", policies[static_cast<int>(options.invalid_utf8)]},
                           {"field", options.input.field},
                           {"jsonl", options.input.jsonl},
                           {"holdout", options.holdout},
                           {"seed", options.seed},
                           {"shard_bytes", options.shard_bytes}};
  settings["delimiter"] =
      options.input.delimiter ? ordered_json(*options.input.delimiter) : ordered_json();
  if (options.tokenizer == kSentencePieceTokenizer && options.tokenizer_model.empty()) {
    settings["train"] = {{"vocabulary", options.train.vocabulary},
                         {"type", options.train.type},
                         {"threads", options.train.threads},
                         {"sample_bytes", options.sample_bytes}};
  }
  return settings;
}

bool IsShardName(const std::string& name) {
  return name.ends_with(".h5") && (name.starts_with("train-") || name.starts_with("eval-"));
}

absl::Status RemoveOld(FileSystem& fs, const std::string& out) {
  // The manifest first: without it the rest is no data set.
  const std::string manifest = out + "/" + kPrepareManifest;
  if (fs.Exists(manifest)) MNEMO_RETURN_IF_ERROR(fs.Remove(manifest));
  MNEMO_ASSIGN_OR_RETURN(std::vector<std::string> names, fs.List(out));
  for (const std::string& name : names) {
    if (IsShardName(name) || name == kTrainedModel) {
      MNEMO_RETURN_IF_ERROR(fs.Remove(out + "/" + name));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadModel(FileSystem& fs, const std::string& path) {
  absl::StatusOr<std::string> model = fs.ReadFile(path);
  if (model.ok()) return model;
  return absl::Status(model.status().code(), fmt::format("the tokenizer's model: {}",
                                                         std::string(model.status().message())));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(FileSystem& fs,
                                                         const PrepareOptions& options,
                                                         bool trained_before) {
  if (options.tokenizer == kBytesTokenizer) return MakeBytesTokenizer();
  const std::string path =
      trained_before ? options.out + "/" + kTrainedModel : options.tokenizer_model;
  MNEMO_ASSIGN_OR_RETURN(std::string model, ReadModel(fs, path));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      MakeTokenizer(options.tokenizer, std::move(model));
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      fmt::format("{}: {}", path, std::string(tokenizer.status().message())));
}

// The first difference, as "NAME was A and is B".
std::string Difference(const ordered_json& was, const ordered_json& is) {
  for (const auto& [name, value] : is.items()) {
    const ordered_json before = was.contains(name) ? was.at(name) : ordered_json();
    if (before != value)
      return fmt::format("{} was {} and is {}", name, before.dump(), value.dump());
  }
  return "it has other settings";
}

absl::StatusOr<PreparedDirectory> Resume(FileSystem& fs, const PrepareOptions& options,
                                         PrepareManifest manifest) {
  ordered_json settings = Settings(options);
  const bool trained = settings.contains("train");
  settings[kTokenizerHash] = manifest.settings.value(kTokenizerHash, "");
  PreparedDirectory directory;
  if (settings == manifest.settings) {
    MNEMO_ASSIGN_OR_RETURN(directory.tokenizer, LoadTokenizer(fs, options, trained));
    settings[kTokenizerHash] = directory.tokenizer->description().hash.Hex();
  }
  if (settings != manifest.settings) {
    return FailedPrecondition(
        "{} holds data prepared in another way ({}): choose another --out, or give --overwrite",
        options.out, Difference(manifest.settings, settings));
  }
  for (size_t i = 0; i < kSplitNames.size(); ++i) {
    for (const FinishedShard& shard : manifest.splits[i].shards) {
      if (!fs.Exists(options.out + "/" + shard.file)) {
        return FailedPrecondition(
            "{} lacks {}, which was finished: restore it, or give --overwrite", options.out,
            shard.file);
      }
    }
  }
  directory.manifest = std::move(manifest);
  return directory;
}

}  // namespace

absl::StatusOr<PreparedDirectory> OpenPreparedDirectory(
    FileSystem& fs, const PrepareOptions& options,
    const std::function<absl::StatusOr<std::string>()>& train) {
  if (options.tokenizer != kBytesTokenizer && options.tokenizer != kSentencePieceTokenizer) {
    return MakeTokenizer(options.tokenizer, "").status();
  }
  MNEMO_RETURN_IF_ERROR(MakeDurableDirectories(fs, options.out));
  if (options.overwrite) MNEMO_RETURN_IF_ERROR(RemoveOld(fs, options.out));
  MNEMO_ASSIGN_OR_RETURN(std::optional<PrepareManifest> manifest,
                         PrepareManifest::Load(fs, options.out));
  if (manifest.has_value()) {
    const bool nothing_finished =
        manifest->splits[kTrain].shards.empty() && manifest->splits[kEval].shards.empty();
    absl::StatusOr<PreparedDirectory> resumed = Resume(fs, options, *std::move(manifest));
    if (!nothing_finished || !absl::IsFailedPrecondition(resumed.status())) return resumed;
    MNEMO_RETURN_IF_ERROR(RemoveOld(fs, options.out));
  }
  MNEMO_ASSIGN_OR_RETURN(std::vector<std::string> names, fs.List(options.out));
  for (const std::string& name : names) {
    if (IsShardName(name)) {
      return FailedPrecondition("{} holds {} but no {}: choose another --out, or give --overwrite",
                                options.out, name, kPrepareManifest);
    }
  }
  PreparedDirectory directory;
  directory.manifest.settings = Settings(options);
  if (directory.manifest.settings.contains("train")) {
    MNEMO_ASSIGN_OR_RETURN(std::string model, train());
    MNEMO_RETURN_IF_ERROR(WriteFileAtomically(fs, options.out + "/" + kTrainedModel, model));
    MNEMO_ASSIGN_OR_RETURN(directory.tokenizer, MakeTokenizer(options.tokenizer, std::move(model)));
  } else {
    MNEMO_ASSIGN_OR_RETURN(directory.tokenizer, LoadTokenizer(fs, options, false));
  }
  directory.manifest.settings[kTokenizerHash] = directory.tokenizer->description().hash.Hex();
  MNEMO_RETURN_IF_ERROR(directory.manifest.Save(fs, options.out));
  return directory;
}

}  // namespace mnemo
