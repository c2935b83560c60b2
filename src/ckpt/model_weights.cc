#include "src/ckpt/model_weights.h"

#include <regex>
#include <utility>
#include <vector>

#include "src/ckpt/safetensors_header.h"
#include "src/ckpt/safetensors_index.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

std::string In(const std::string& directory, std::string_view name) {
  return directory + "/" + std::string(name);
}

std::string ShardName(size_t number, size_t count) {
  return fmt::format("model-{:05}-of-{:05}.safetensors", number + 1, count);
}

int64_t BytesOfAll(std::span<const StreamedTensor> tensors) {
  int64_t bytes = 0;
  for (const StreamedTensor& tensor : tensors) {
    bytes += ElementCount(tensor.shape) * SizeOf(tensor.dtype);
  }
  return bytes;
}

// Each as long as it can be.
std::vector<std::span<const StreamedTensor>> CutIntoShards(std::span<const StreamedTensor> tensors,
                                                           int64_t shard_bytes) {
  std::vector<std::span<const StreamedTensor>> shards;
  size_t begin = 0;
  int64_t bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const int64_t own = BytesOfAll(tensors.subspan(i, 1));
    if (i > begin && own > shard_bytes - bytes) {
      shards.push_back(tensors.subspan(begin, i - begin));
      begin = i;
      bytes = 0;
    }
    bytes += own;
  }
  shards.push_back(tensors.subspan(begin));
  return shards;
}

absl::StatusOr<SafetensorsIndex> ReadIndex(FileSystem& fs, const std::string& path) {
  MNEMO_ASSIGN_OR_RETURN(const int64_t bytes, fs.FileSize(path));
  if (bytes > kMaxSafetensorsHeader) {
    return DataLoss("{}: {} bytes are too many for an index", path, bytes);
  }
  MNEMO_ASSIGN_OR_RETURN(const std::string text, fs.ReadFile(path));
  auto index = ParseSafetensorsIndex(text);
  if (!index.ok()) return DataLoss("{}: {}", path, std::string(index.status().message()));
  return index;
}

}  // namespace

bool IsWeightsName(std::string_view name) {
  static const std::regex shard(R"(model-\d{5,}-of-\d{5,}\.safetensors)");
  return name == kWeightsName || name == kWeightsIndexName ||
         std::regex_match(name.begin(), name.end(), shard);
}

absl::StatusOr<int> WriteModelWeights(FileSystem& fs, const std::string& directory,
                                      std::span<const StreamedTensor> tensors,
                                      int64_t shard_bytes) {
  const std::map<std::string, std::string> metadata = {{"format", "mnemosyne-model"}};
  const auto shards = CutIntoShards(tensors, shard_bytes);
  if (shards.size() == 1) {
    MNEMO_RETURN_IF_ERROR(
        WriteSafetensors(fs, In(directory, kWeightsName), tensors, metadata).status());
    return 1;
  }
  SafetensorsIndex index;
  index.total_bytes = BytesOfAll(tensors);
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = ShardName(i, shards.size());
    MNEMO_ASSIGN_OR_RETURN(const Digest digest,
                           WriteSafetensors(fs, In(directory, name), shards[i], metadata));
    index.header_digests[name] = digest.Hex();
    for (const StreamedTensor& tensor : shards[i]) {
      if (!index.files.emplace(tensor.name, name).second) {
        return InvalidArgument("safetensors: a tensor may not be named \"{}\" twice", tensor.name);
      }
    }
  }
  MNEMO_RETURN_IF_ERROR(
      WriteFileAtomically(fs, In(directory, kWeightsIndexName), PrintSafetensorsIndex(index)));
  return static_cast<int>(shards.size());
}

absl::StatusOr<ModelWeights> ModelWeights::Open(FileSystem& fs, const std::string& directory) {
  ModelWeights weights;
  const bool indexed = fs.Exists(In(directory, kWeightsIndexName));
  if (indexed && fs.Exists(In(directory, kWeightsName))) {
    return FailedPrecondition(
        "{0} holds both {1} and {2}: remove what does not belong to the model", directory,
        kWeightsName, kWeightsIndexName);
  }
  weights.path_ = In(directory, indexed ? kWeightsIndexName : kWeightsName);
  if (indexed) {
    MNEMO_RETURN_IF_ERROR(weights.AddIndexed(fs, directory));
  } else {
    MNEMO_RETURN_IF_ERROR(weights.AddFile(fs, weights.path_));
  }
  return weights;
}

// What two files both have stays that of the first.
absl::Status ModelWeights::AddFile(FileSystem& fs, const std::string& path) {
  MNEMO_ASSIGN_OR_RETURN(SafetensorsReader reader, SafetensorsReader::Open(fs, path));
  const auto file = std::make_shared<const SafetensorsReader>(std::move(reader));
  files_.emplace(path, file);
  for (const auto& [name, entry] : file->entries()) {
    entries_.emplace(name, Entry{entry.dtype, entry.shape, file});
  }
  return absl::OkStatus();
}

absl::Status ModelWeights::AddIndexed(FileSystem& fs, const std::string& directory) {
  MNEMO_ASSIGN_OR_RETURN(const SafetensorsIndex index, ReadIndex(fs, path_));
  int64_t bytes = 0;
  for (const auto& [tensor, name] : index.files) {
    const std::string path = In(directory, name);
    if (files_.contains(path)) continue;
    if (!fs.Exists(path)) {
      return DataLoss(
          "{}: tensor \"{}\" is said to be in {}, which is missing: copy all of the "
          "files of the model, or export it again",
          path_, tensor, name);
    }
    MNEMO_RETURN_IF_ERROR(AddFile(fs, path));
    const SafetensorsReader& file = *files_.at(path);
    const auto digest = index.header_digests.find(name);
    if (digest != index.header_digests.end() && digest->second != file.header_digest().Hex()) {
      return DataLoss(
          "{}: is not the file that {} was written with: the two are of different "
          "exports, or damaged",
          path, path_);
    }
    for (const auto& [other, entry] : file.entries()) {
      const auto named = index.files.find(other);
      if (named == index.files.end() || named->second != name) {
        return DataLoss(
            "{}: holds tensor \"{}\", which {} {}", path, other, path_,
            named == index.files.end() ? "does not name" : "says is in " + named->second);
      }
      bytes += entry.bytes;
    }
  }
  for (const auto& [tensor, name] : index.files) {
    if (!files_.at(In(directory, name))->entries().contains(tensor)) {
      return DataLoss("{}: lacks tensor \"{}\", which {} says is there", In(directory, name),
                      tensor, path_);
    }
  }
  if (index.total_bytes.value_or(bytes) == bytes) return absl::OkStatus();
  return DataLoss("{}: total_size is {}, but the tensors have {} bytes", path_, *index.total_bytes,
                  bytes);
}

absl::StatusOr<Tensor> ModelWeights::ReadBox(std::string_view name, const Box& box) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return NotFound("{}: there is no tensor \"{}\"", path_, name);
  return found->second.file->ReadBox(name, box);
}

}  // namespace mnemo
