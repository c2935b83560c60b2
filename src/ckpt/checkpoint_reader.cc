#include "src/ckpt/checkpoint_reader.h"

#include <algorithm>
#include <utility>

#include "src/ckpt/manifest.h"
#include "src/core/digest.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

// Digests are taken of what is in the cache still.
constexpr size_t kReadBlock = size_t{1} << 20;

}  // namespace

absl::StatusOr<CheckpointReader> CheckpointReader::Open(FileSystem& fs,
                                                        const std::string& directory) {
  v1::CheckpointManifest manifest;
  MNEMO_ASSIGN_OR_RETURN(manifest, ReadManifest(fs, directory));
  MNEMO_RETURN_IF_ERROR(CheckFileLengths(fs, directory, manifest));
  CheckpointReader reader(fs, directory);
  reader.manifest_ = std::make_shared<const v1::CheckpointManifest>(std::move(manifest));
  for (const v1::CheckpointTensor& tensor : reader.manifest_->tensors()) {
    reader.tensors_.emplace(tensor.name(), &tensor);
  }
  return reader;
}

const v1::CheckpointTensor* CheckpointReader::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : found->second;
}

absl::StatusOr<const v1::CheckpointTensor*> CheckpointReader::FindBox(std::string_view name,
                                                                      const Box& box) const {
  const v1::CheckpointTensor* tensor = Find(name);
  if (tensor == nullptr) return NotFound("{}: there is no tensor \"{}\"", directory_, name);
  if (!LiesIn(box, ShapeOf(*tensor))) {
    return InvalidArgument("{}: what is asked of tensor {} does not lie in its shape {}",
                           directory_, name, ShapeOf(*tensor));
  }
  return tensor;
}

absl::StatusOr<Tensor> CheckpointReader::ReadBox(std::string_view name, const Box& box) const {
  MNEMO_ASSIGN_OR_RETURN(const v1::CheckpointTensor* const tensor, FindBox(name, box));
  const Tensor out = Tensor::Empty(box.shape, DTypeOf(*tensor));
  MNEMO_RETURN_IF_ERROR(ReadBoxInto(name, box, out));
  return out;
}

absl::Status CheckpointReader::ReadBoxInto(std::string_view name, const Box& box,
                                           const Tensor& out) const {
  MNEMO_ASSIGN_OR_RETURN(const v1::CheckpointTensor* const tensor, FindBox(name, box));
  if (out.device() != Device() || !out.contiguous() || out.shape() != box.shape ||
      out.dtype() != DTypeOf(*tensor)) {
    return InvalidArgument("{}: tensor {}, of {}, cannot be read into {} of shape {}", directory_,
                           name, Name(DTypeOf(*tensor)), Name(out.dtype()), out.shape());
  }
  for (const v1::CheckpointPiece& piece : tensor->pieces()) {
    if (Intersect(BoxOf(piece), box)) {
      MNEMO_RETURN_IF_ERROR(ReadPiece(*tensor, piece, box, out));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> CheckpointReader::Read(std::string_view name) const {
  const v1::CheckpointTensor* tensor = Find(name);
  if (tensor == nullptr) return NotFound("{}: there is no tensor \"{}\"", directory_, name);
  return ReadBox(name, WholeBox(ShapeOf(*tensor)));
}

absl::StatusOr<std::shared_ptr<ReadableFile>> CheckpointReader::OpenFile(int number) const {
  const std::lock_guard lock(last_->mutex);
  if (last_->number != number) {
    last_->number = -1;
    MNEMO_ASSIGN_OR_RETURN(last_->file, fs_->OpenToRead(PathOf(number)));
    last_->number = number;
  }
  return last_->file;
}

absl::Status CheckpointReader::ReadPiece(const v1::CheckpointTensor& tensor,
                                         const v1::CheckpointPiece& piece, const Box& box,
                                         const Tensor& out) const {
  const Box from = BoxOf(piece);
  const int64_t element = SizeOf(out.dtype());
  char* const target = static_cast<char*>(out.raw());
  // Where the piece is one run of the result it is read to its place; the digest is checked there,
  // and on a mismatch the caller gets nothing of it.
  const bool in_place = Intersect(from, box) == from && IsContiguousIn(from, box);
  std::string copy(in_place ? 0 : piece.byte_length(), '\0');
  char* const bytes = in_place ? target + OffsetIn(box, from.begin) * element : copy.data();
  const auto length = static_cast<size_t>(piece.byte_length());
  MNEMO_ASSIGN_OR_RETURN(const std::shared_ptr<ReadableFile> file, OpenFile(piece.file()));
  DigestStream digest;
  for (size_t at = 0; at < length; at += kReadBlock) {
    const std::span<char> block(bytes + at, std::min(kReadBlock, length - at));
    MNEMO_RETURN_IF_ERROR(file->Read(piece.byte_offset() + static_cast<int64_t>(at), block));
    digest.Update({block.data(), block.size()});
  }
  if (!Matches(piece.xxh3_128(), digest.Finish())) {
    return DataLoss(
        "{}: piece {} of tensor {} is damaged: the {} bytes from byte {} do not match "
        "their digest",
        PathOf(piece.file()), ToString(from), tensor.name(), length, piece.byte_offset());
  }
  if (!in_place) CopyShared(from, copy.data(), box, target, element);
  return absl::OkStatus();
}

}  // namespace mnemo
