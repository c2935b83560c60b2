#include "src/ckpt/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "src/ckpt/safetensors_header.h"
#include "src/core/digest.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie");

Tensor OnHost(const Tensor& x) { return x.To(Device{}).Contiguous(); }

std::string_view Bytes(const Tensor& host) {
  return {static_cast<const char*>(host.raw()), static_cast<size_t>(host.bytes())};
}

absl::StatusOr<std::string> MakeHeader(std::span<const NamedTensor> tensors,
                                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  nlohmann::ordered_json strings = nlohmann::ordered_json::object();
  for (const auto& [key, value] : metadata) strings[key] = value;
  std::set<std::string_view> names;
  int64_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    if (tensor.name.empty() || tensor.name == kSafetensorsMetadata ||
        !names.insert(tensor.name).second) {
      return InvalidArgument("safetensors: a tensor may not be named \"{}\"{}", tensor.name,
                             names.count(tensor.name) > 0 ? " twice" : "");
    }
    const Tensor& x = tensor.value;
    strings[std::string(kDigestPrefix) + tensor.name] = DigestOf(Bytes(OnHost(x))).Hex();
    header[tensor.name] = {{"dtype", SafetensorsName(x.dtype())},
                           {"shape", std::vector<int64_t>(x.shape().begin(), x.shape().end())},
                           {"data_offsets", {offset, offset + x.bytes()}}};
    offset += x.bytes();
  }
  if (!strings.empty()) header[std::string(kSafetensorsMetadata)] = std::move(strings);
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {
    return InvalidArgument("safetensors: names and metadata must be UTF-8: {}", error.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the tensors are aligned
  return text;
}

absl::Status WriteAll(FileSystem& fs, const std::string& path, std::string_view header,
                      std::span<const NamedTensor> tensors) {
  std::unique_ptr<WritableFile> file;
  MNEMO_ASSIGN_OR_RETURN(file, fs.Create(path));
  const uint64_t size = header.size();
  char length[sizeof(size)];
  std::memcpy(length, &size, sizeof(size));
  MNEMO_RETURN_IF_ERROR(file->Append({length, sizeof(length)}));
  MNEMO_RETURN_IF_ERROR(file->Append(header));
  for (const NamedTensor& tensor : tensors) {
    MNEMO_RETURN_IF_ERROR(file->Append(Bytes(OnHost(tensor.value))));
  }
  MNEMO_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

}  // namespace

absl::Status WriteSafetensors(FileSystem& fs, const std::string& path,
                              std::span<const NamedTensor> tensors,
                              const std::map<std::string, std::string>& metadata) {
  std::string header;
  MNEMO_ASSIGN_OR_RETURN(header, MakeHeader(tensors, metadata));
  const std::string temporary = path + ".tmp";
  absl::Status status = WriteAll(fs, temporary, header, tensors);
  if (status.ok()) status = fs.Rename(temporary, path);
  if (!status.ok()) {
    (void)fs.Remove(temporary);  // the first error is the one to report
    return status;
  }
  const std::string directory = std::filesystem::path(path).parent_path().string();
  return fs.SyncDirectory(directory.empty() ? "." : directory);
}

absl::StatusOr<SafetensorsReader> SafetensorsReader::Open(FileSystem& fs, const std::string& path) {
  int64_t file_size = 0;
  MNEMO_ASSIGN_OR_RETURN(file_size, fs.FileSize(path));
  uint64_t length = 0;
  char bytes[sizeof(length)];
  if (file_size < static_cast<int64_t>(sizeof(length))) {
    return DataLoss("{}: {} bytes are too few for a safetensors file", path, file_size);
  }
  MNEMO_RETURN_IF_ERROR(fs.ReadRange(path, 0, bytes));
  std::memcpy(&length, bytes, sizeof(length));
  const int64_t left = file_size - static_cast<int64_t>(sizeof(length));
  if (length > static_cast<uint64_t>(std::min(left, kMaxSafetensorsHeader))) {
    return DataLoss(
        "{}: a header of {} bytes in a file of {}; not a safetensors file, or truncated", path,
        length, file_size);
  }
  std::string text(length, '\0');
  MNEMO_RETURN_IF_ERROR(fs.ReadRange(path, sizeof(length), text));
  auto header = ParseSafetensorsHeader(text, left - static_cast<int64_t>(length));
  if (!header.ok()) return DataLoss("{}: {}", path, std::string(header.status().message()));
  SafetensorsReader reader(fs, path);
  reader.entries_ = std::move(header->entries);
  reader.metadata_ = std::move(header->metadata);
  for (auto& [name, entry] : reader.entries_) {
    entry.offset += static_cast<int64_t>(sizeof(length) + length);
  }
  return reader;
}

absl::StatusOr<Tensor> SafetensorsReader::Read(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return NotFound("{}: there is no tensor \"{}\"", path_, name);
  const SafetensorsEntry& entry = found->second;
  Tensor tensor = Tensor::Empty(entry.shape, entry.dtype);
  MNEMO_RETURN_IF_ERROR(fs_->ReadRange(
      path_, entry.offset, {static_cast<char*>(tensor.raw()), static_cast<size_t>(entry.bytes)}));
  if (!entry.digest.empty() && DigestOf(Bytes(tensor)).Hex() != entry.digest) {
    return DataLoss("{}: tensor \"{}\" is damaged: its bytes do not match their digest", path_,
                    name);
  }
  return tensor;
}

}  // namespace mnemo
