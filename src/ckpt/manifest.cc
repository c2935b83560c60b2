#include "src/ckpt/manifest.h"

#include <algorithm>
#include <set>
#include <vector>

#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr std::string_view kMagic = "mnemckpt";
constexpr size_t kDigestBytes = 16, kTrailerBytes = 8 + kDigestBytes;
// Far above what any run writes; keeps a damaged directory from filling the memory.
constexpr int64_t kMaxManifestBytes = int64_t{1} << 30;
constexpr int64_t kMaxTensorBytes = int64_t{1} << 60;

bool IsPlainName(const std::string& path) {
  return !path.empty() && path != "." && path != ".." && path != kManifestName &&
         path.find('/') == path.npos && path.find('\0') == path.npos;
}

absl::Status CheckFiles(const v1::CheckpointManifest& manifest, const std::string& name) {
  std::set<std::string_view> paths;
  for (const v1::CheckpointFile& file : manifest.files()) {
    if (!IsPlainName(file.path())) {
      return DataLoss("{}: \"{}\" is not a plain name of a file beside it", name, file.path());
    }
    if (!paths.insert(file.path()).second) {
      return DataLoss("{}: the file {} is listed twice", name, file.path());
    }
    if (file.bytes() < 0 || file.xxh3_128().size() != kDigestBytes) {
      return DataLoss("{}: the file {} has no proper length and digest", name, file.path());
    }
  }
  return absl::OkStatus();
}

// Shape and dtype, so that sizes can be computed without overflow.
absl::Status CheckKind(const v1::CheckpointTensor& tensor) {
  if (tensor.dtype() < v1::TENSOR_F32 || tensor.dtype() > v1::TENSOR_I32) {
    return InvalidArgument("its dtype {} is unknown", static_cast<int>(tensor.dtype()));
  }
  if (tensor.shape_size() > kMaxTensorRank) {
    return InvalidArgument("it has {} dims; at most {} are possible", tensor.shape_size(),
                           kMaxTensorRank);
  }
  int64_t bytes = SizeOf(DTypeOf(tensor));
  for (int64_t dim : tensor.shape()) {
    if (dim < 0 || (dim > 0 && bytes > kMaxTensorBytes / dim)) {
      return InvalidArgument("its shape {} is not possible", ShapeOf(tensor));
    }
    bytes *= std::max<int64_t>(dim, 1);
  }
  return absl::OkStatus();
}

absl::Status CheckPiece(const v1::CheckpointManifest& manifest, const v1::CheckpointTensor& tensor,
                        const v1::CheckpointPiece& piece) {
  const Box box = BoxOf(piece);
  if (!LiesIn(box, ShapeOf(tensor)) || ElementCount(box) == 0) {
    return InvalidArgument("a piece does not lie in its shape {}", ShapeOf(tensor));
  }
  if (piece.file() < 0 || piece.file() >= manifest.files_size()) {
    return InvalidArgument("the piece {} lies in file {}, of {}", ToString(box), piece.file(),
                           manifest.files_size());
  }
  const v1::CheckpointFile& file = manifest.files(piece.file());
  const int64_t bytes = ElementCount(box) * SizeOf(DTypeOf(tensor));
  if (piece.byte_length() != bytes || piece.byte_offset() < 0 || bytes > file.bytes() ||
      piece.byte_offset() > file.bytes() - bytes) {
    return InvalidArgument(
        "the piece {} needs {} bytes, and has {} from byte {} of {}, which has {}", ToString(box),
        bytes, piece.byte_length(), piece.byte_offset(), file.path(), file.bytes());
  }
  if (piece.xxh3_128().size() != kDigestBytes) {
    return InvalidArgument("the piece {} has no proper digest", ToString(box));
  }
  return absl::OkStatus();
}

absl::Status CheckTensor(const v1::CheckpointManifest& manifest,
                         const v1::CheckpointTensor& tensor) {
  MNEMO_RETURN_IF_ERROR(CheckKind(tensor));
  std::vector<Box> boxes;
  for (const v1::CheckpointPiece& piece : tensor.pieces()) {
    MNEMO_RETURN_IF_ERROR(CheckPiece(manifest, tensor, piece));
    boxes.push_back(BoxOf(piece));
  }
  return CheckCover(boxes, ShapeOf(tensor));
}

struct ByteRange {
  int32_t file;
  int64_t begin, end;
  auto operator<=>(const ByteRange&) const = default;
};

absl::Status CheckByteRanges(const v1::CheckpointManifest& manifest, const std::string& name) {
  std::vector<ByteRange> ranges;
  for (const v1::CheckpointTensor& tensor : manifest.tensors()) {
    for (const v1::CheckpointPiece& piece : tensor.pieces()) {
      ranges.push_back(
          {piece.file(), piece.byte_offset(), piece.byte_offset() + piece.byte_length()});
    }
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].file == ranges[i - 1].file && ranges[i].begin < ranges[i - 1].end) {
      return DataLoss("{}: two pieces share byte {} of {}", name, ranges[i].begin,
                      manifest.files(ranges[i].file).path());
    }
  }
  return absl::OkStatus();
}

}  // namespace

v1::TensorDType ToProto(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return v1::TENSOR_F32;
    case DType::kF64:
      return v1::TENSOR_F64;
    case DType::kBF16:
      return v1::TENSOR_BF16;
    case DType::kI32:
      return v1::TENSOR_I32;
  }
  MNEMO_CHECK(false, "unknown dtype");
  return v1::TENSOR_DTYPE_UNSPECIFIED;
}

DType DTypeOf(const v1::CheckpointTensor& tensor) {
  for (DType dtype : {DType::kF32, DType::kF64, DType::kBF16, DType::kI32}) {
    if (ToProto(dtype) == tensor.dtype()) return dtype;
  }
  MNEMO_CHECK(false, "unknown dtype {}", static_cast<int>(tensor.dtype()));
  return DType::kF32;
}

int64_t BytesOf(const v1::CheckpointTensor& tensor) {
  return ElementCount(ShapeOf(tensor)) * SizeOf(DTypeOf(tensor));
}

Shape ShapeOf(const v1::CheckpointTensor& tensor) {
  return Shape(tensor.shape().begin(), tensor.shape().end());
}

Box BoxOf(const v1::CheckpointPiece& piece) {
  return {Shape(piece.begin().begin(), piece.begin().end()),
          Shape(piece.shape().begin(), piece.shape().end())};
}

std::string ToBytes(const Digest& digest) {
  return std::string(digest.bytes.begin(), digest.bytes.end());
}

bool Matches(std::string_view bytes, const Digest& digest) { return bytes == ToBytes(digest); }

std::string EncodeManifest(const v1::CheckpointManifest& manifest) {
  std::string bytes = manifest.SerializeAsString();
  bytes.append(kMagic);
  return bytes.append(ToBytes(DigestOf(bytes)));
}

absl::StatusOr<v1::CheckpointManifest> DecodeManifest(std::string_view bytes,
                                                      const std::string& name) {
  const size_t body = bytes.size() - std::min(bytes.size(), kTrailerBytes);
  if (bytes.size() < kTrailerBytes || bytes.substr(body, kMagic.size()) != kMagic) {
    return DataLoss("{}: does not end as a manifest does; it is truncated, or something else",
                    name);
  }
  const size_t digest = bytes.size() - kDigestBytes;
  if (!Matches(bytes.substr(digest), DigestOf(bytes.substr(0, digest)))) {
    return DataLoss("{}: is damaged: its bytes do not match their digest", name);
  }
  v1::CheckpointManifest manifest;
  if (!manifest.ParseFromArray(bytes.data(), static_cast<int>(body))) {
    return DataLoss("{}: is not a manifest, though its digest matches", name);
  }
  if (manifest.format_version() != kCheckpointFormatVersion) {
    return FailedPrecondition(
        "{}: has format version {}; this program reads version {}. It was written by \"{}\": use "
        "that",
        name, manifest.format_version(), kCheckpointFormatVersion, manifest.writer());
  }
  return manifest;
}

absl::Status CheckManifest(const v1::CheckpointManifest& manifest, const std::string& name) {
  MNEMO_RETURN_IF_ERROR(CheckFiles(manifest, name));
  std::set<std::string_view> names;
  for (const v1::CheckpointTensor& tensor : manifest.tensors()) {
    if (tensor.name().empty() || !names.insert(tensor.name()).second) {
      return DataLoss("{}: a tensor has no name, or another one's: \"{}\"", name, tensor.name());
    }
    const absl::Status status = CheckTensor(manifest, tensor);
    if (!status.ok()) {
      return DataLoss("{}: tensor {}: {}", name, tensor.name(), std::string(status.message()));
    }
  }
  return CheckByteRanges(manifest, name);
}

absl::StatusOr<v1::CheckpointManifest> ReadManifest(FileSystem& fs, const std::string& directory) {
  const std::string path = directory + "/" + std::string(kManifestName);
  if (!fs.Exists(path)) {
    return NotFound("{} is not a whole checkpoint: it has no {}", directory, kManifestName);
  }
  int64_t size = 0;
  MNEMO_ASSIGN_OR_RETURN(size, fs.FileSize(path));
  if (size > kMaxManifestBytes) {
    return DataLoss("{}: {} bytes are too many for a manifest", path, size);
  }
  std::string bytes;
  MNEMO_ASSIGN_OR_RETURN(bytes, fs.ReadFile(path));
  v1::CheckpointManifest manifest;
  MNEMO_ASSIGN_OR_RETURN(manifest, DecodeManifest(bytes, path));
  MNEMO_RETURN_IF_ERROR(CheckManifest(manifest, path));
  return manifest;
}

absl::Status CheckFileLengths(FileSystem& fs, const std::string& directory,
                              const v1::CheckpointManifest& manifest) {
  for (const v1::CheckpointFile& file : manifest.files()) {
    const std::string path = directory + "/" + file.path();
    const absl::StatusOr<int64_t> size = fs.FileSize(path);
    if (absl::IsNotFound(size.status())) {
      return DataLoss("{}: is missing from its checkpoint", path);
    }
    MNEMO_ASSIGN_OR_RETURN(const int64_t bytes, size);
    if (bytes != file.bytes()) {
      return DataLoss("{}: has {} bytes instead of {}; it is truncated, or not of this checkpoint",
                      path, bytes, file.bytes());
    }
  }
  return absl::OkStatus();
}

}  // namespace mnemo
