#include "src/ckpt/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "src/ckpt/safetensors_header.h"
#include "src/core/digest.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie");

// Digests are taken of what is in the cache still.
constexpr int64_t kTensorBlock = int64_t{1} << 20;

std::string_view Bytes(const Tensor& host) {
  return {static_cast<const char*>(host.raw()), static_cast<size_t>(host.bytes())};
}

absl::StatusOr<Tensor> ReadOnHost(const StreamedTensor& tensor) {
  MNEMO_ASSIGN_OR_RETURN(const Tensor value, tensor.read());
  MNEMO_CHECK(value.shape() == tensor.shape && value.dtype() == tensor.dtype, "{}", tensor.name);
  return value.To(Device{}).Contiguous();
}

int64_t BytesOf(const StreamedTensor& tensor) {
  return ElementCount(tensor.shape) * SizeOf(tensor.dtype);
}

absl::StatusOr<std::string> MakeHeader(std::span<const StreamedTensor> tensors,
                                       const std::map<std::string, std::string>& metadata,
                                       std::vector<Digest>& digests) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  nlohmann::ordered_json strings = nlohmann::ordered_json::object();
  for (const auto& [key, value] : metadata) strings[key] = value;
  std::set<std::string_view> names;
  int64_t offset = 0;
  for (const StreamedTensor& tensor : tensors) {
    if (tensor.name.empty() || tensor.name == kSafetensorsMetadata ||
        !names.insert(tensor.name).second) {
      return InvalidArgument("safetensors: a tensor may not be named \"{}\"{}", tensor.name,
                             names.count(tensor.name) > 0 ? " twice" : "");
    }
    MNEMO_ASSIGN_OR_RETURN(const Tensor value, ReadOnHost(tensor));
    digests.push_back(DigestOf(Bytes(value)));
    strings[std::string(kDigestPrefix) + tensor.name] = digests.back().Hex();
    header[tensor.name] = {
        {"dtype", SafetensorsName(tensor.dtype)},
        {"shape", std::vector<int64_t>(tensor.shape.begin(), tensor.shape.end())},
        {"data_offsets", {offset, offset + BytesOf(tensor)}}};
    offset += BytesOf(tensor);
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
                      std::span<const StreamedTensor> tensors, const std::vector<Digest>& digests) {
  std::unique_ptr<WritableFile> file;
  MNEMO_ASSIGN_OR_RETURN(file, fs.Create(path));
  const uint64_t size = header.size();
  char length[sizeof(size)];
  std::memcpy(length, &size, sizeof(size));
  MNEMO_RETURN_IF_ERROR(file->Append({length, sizeof(length)}));
  MNEMO_RETURN_IF_ERROR(file->Append(header));
  for (size_t i = 0; i < tensors.size(); ++i) {
    MNEMO_ASSIGN_OR_RETURN(const Tensor value, ReadOnHost(tensors[i]));
    if (DigestOf(Bytes(value)) != digests[i]) {
      return FailedPrecondition("{}: tensor \"{}\" changed while it was written", path,
                                tensors[i].name);
    }
    MNEMO_RETURN_IF_ERROR(file->Append(Bytes(value)));
  }
  MNEMO_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

}  // namespace

std::vector<StreamedTensor> Streamed(std::span<const NamedTensor> tensors) {
  std::vector<StreamedTensor> streamed;
  for (const NamedTensor& tensor : tensors) {
    streamed.push_back({tensor.name, tensor.value.dtype(), tensor.value.shape(),
                        [value = tensor.value] { return value; }});
  }
  return streamed;
}

absl::StatusOr<Digest> WriteSafetensors(FileSystem& fs, const std::string& path,
                                        std::span<const StreamedTensor> tensors,
                                        const std::map<std::string, std::string>& metadata) {
  std::vector<Digest> digests;
  MNEMO_ASSIGN_OR_RETURN(const std::string header, MakeHeader(tensors, metadata, digests));
  const std::string temporary = path + ".tmp";
  absl::Status status = WriteAll(fs, temporary, header, tensors, digests);
  if (status.ok()) status = fs.Rename(temporary, path);
  if (!status.ok()) {
    (void)fs.Remove(temporary);  // the first error is the one to report
    return status;
  }
  MNEMO_RETURN_IF_ERROR(fs.SyncDirectory(ParentDirectory(path)));
  return DigestOf(header);
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
  reader.header_digest_ = DigestOf(text);
  for (auto& [name, entry] : reader.entries_) {
    entry.offset += static_cast<int64_t>(sizeof(length) + length);
  }
  return reader;
}

absl::StatusOr<Tensor> SafetensorsReader::Read(std::string_view name) const {
  const auto found = entries_.find(name);
  return ReadBox(name, found == entries_.end() ? Box() : WholeBox(found->second.shape));
}

absl::StatusOr<Tensor> SafetensorsReader::ReadBox(std::string_view name, const Box& box) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return NotFound("{}: there is no tensor \"{}\"", path_, name);
  const SafetensorsEntry& entry = found->second;
  if (!LiesIn(box, entry.shape)) {
    return InvalidArgument("{}: what is asked of tensor \"{}\" does not lie in its shape {}", path_,
                           name, ToString(entry.shape));
  }
  Tensor out = Tensor::Empty(box.shape, entry.dtype);
  const Box whole = WholeBox(entry.shape);
  const int64_t element = SizeOf(entry.dtype);
  MNEMO_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs_->OpenToRead(path_));
  DigestStream digest;
  std::string copy;
  int64_t at = 0;  // bytes of the tensor read
  for (const Box& run : CutIntoRuns(whole, kTensorBlock / element)) {
    const int64_t bytes = ElementCount(run) * element;
    char* target = static_cast<char*>(out.raw()) + at;
    if (box != whole) {
      copy.resize(bytes);
      target = copy.data();
    }
    MNEMO_RETURN_IF_ERROR(file->Read(entry.offset + at, {target, static_cast<size_t>(bytes)}));
    digest.Update({target, static_cast<size_t>(bytes)});
    if (box != whole) CopyShared(run, target, box, static_cast<char*>(out.raw()), element);
    at += bytes;
  }
  if (!entry.digest.empty() && digest.Finish().Hex() != entry.digest) {
    return DataLoss("{}: tensor \"{}\" is damaged: its bytes do not match their digest", path_,
                    name);
  }
  return out;
}

}  // namespace mnemo
