#include "src/ckpt/checkpoint_writer.h"

#include <algorithm>
#include <bit>
#include <map>
#include <memory>
#include <new>
#include <string_view>
#include <utility>
#include <vector>

#include "src/ckpt/hdf5_layout.h"
#include "src/ckpt/manifest.h"
#include "src/core/digest.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie");

// Two digests are taken of every byte before it is written: in blocks that stay in the cache.
constexpr size_t kWriteBlock = size_t{1} << 20;

using PieceValue = std::function<absl::StatusOr<Tensor>(size_t)>;

absl::Status CheckName(const std::string& name) {
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) {
    return c > ' ' && c <= '~' && c != '@';  // ASCII; '@' begins a place, see DatasetName
  });
  if (!name.empty() && plain) return absl::OkStatus();
  return InvalidArgument(
      "a checkpoint's tensor cannot be named \"{}\": a name is printable ASCII without spaces and "
      "'@'",
      name);
}

// The tensor's name, and where the piece begins unless it is all of it.
std::string DatasetName(const DeferredPiece& piece) {
  if (piece.box.shape == piece.whole) return piece.name;
  std::string name = piece.name;
  for (size_t d = 0; d < piece.box.begin.size(); ++d) {
    name += fmt::format("{}{}", d == 0 ? '@' : ',', piece.box.begin[d]);
  }
  return name;
}

Hdf5DatasetSpec DatasetOf(const DeferredPiece& piece) {
  Hdf5DatasetSpec spec{DatasetName(piece), piece.dtype, piece.box.shape, {}};
  if (!piece.whole.empty()) {
    spec.attributes["begin"] = {piece.box.begin.begin(), piece.box.begin.end()};
    spec.attributes["tensor_shape"] = {piece.whole.begin(), piece.whole.end()};
  }
  return spec;
}

// The fragment's entries, in the order of their first pieces.
class TensorList {
 public:
  explicit TensorList(v1::CheckpointFragment& fragment) : fragment_(fragment) {}

  absl::StatusOr<v1::CheckpointTensor*> Add(const DeferredPiece& piece) {
    MNEMO_RETURN_IF_ERROR(CheckName(piece.name));
    if (piece.whole.size() > kMaxTensorRank || !LiesIn(piece.box, piece.whole)) {
      return InvalidArgument("the piece of {} given does not lie in the shape {}", piece.name,
                             piece.whole);
    }
    auto [found, is_new] = index_.emplace(piece.name, nullptr);
    if (is_new) {
      found->second = fragment_.add_tensors();
      found->second->set_name(piece.name);
      found->second->set_dtype(ToProto(piece.dtype));
      found->second->mutable_shape()->Assign(piece.whole.begin(), piece.whole.end());
    } else if (ShapeOf(*found->second) != piece.whole || DTypeOf(*found->second) != piece.dtype) {
      return InvalidArgument("two pieces of {} differ in the tensor's shape or dtype", piece.name);
    }
    return found->second;
  }

 private:
  v1::CheckpointFragment& fragment_;
  std::map<std::string_view, v1::CheckpointTensor*> index_;
};

// Writes a file front to back and knows where it is.
class FileWriter {
 public:
  explicit FileWriter(std::unique_ptr<WritableFile> file) : file_(std::move(file)) {}
  int64_t position() const { return position_; }

  absl::Status Write(std::string_view bytes, DigestStream* piece = nullptr) {
    for (; !bytes.empty(); bytes.remove_prefix(std::min(kWriteBlock, bytes.size()))) {
      const std::string_view block = bytes.substr(0, kWriteBlock);
      digest_.Update(block);
      if (piece != nullptr) piece->Update(block);
      MNEMO_RETURN_IF_ERROR(file_->Append(block));
      position_ += static_cast<int64_t>(block.size());
    }
    return absl::OkStatus();
  }

  absl::Status Finish(v1::CheckpointFile& file) {
    file.set_bytes(position_);
    file.set_xxh3_128(ToBytes(digest_.Finish()));
    MNEMO_RETURN_IF_ERROR(file_->Sync());
    return file_->Close();
  }

 private:
  std::unique_ptr<WritableFile> file_;
  DigestStream digest_;
  int64_t position_ = 0;
};

absl::Status WriteContents(const DeferredPiece& piece, const absl::StatusOr<Tensor>& value,
                           int64_t offset, int64_t piece_bytes, FileWriter& writer,
                           v1::CheckpointTensor& tensor) {
  MNEMO_RETURN_IF_ERROR(value.status());
  if (value->shape() != piece.box.shape || value->dtype() != piece.dtype) {
    return InvalidArgument("the value of a piece of {} is {} {}, and was to be {} {}", piece.name,
                           Name(value->dtype()), value->shape(), Name(piece.dtype),
                           piece.box.shape);
  }
  MNEMO_RETURN_IF_ERROR(writer.Write(std::string(offset - writer.position(), '\0')));
  const Tensor host = value->To(Device{}).Contiguous();
  const int64_t element = SizeOf(host.dtype());
  const char* bytes = static_cast<const char*>(host.raw());
  DigestStream digest;
  for (const Box& run : CutIntoRuns(piece.box, std::max<int64_t>(1, piece_bytes / element))) {
    v1::CheckpointPiece& entry = *tensor.add_pieces();
    entry.mutable_begin()->Assign(run.begin.begin(), run.begin.end());
    entry.mutable_shape()->Assign(run.shape.begin(), run.shape.end());
    entry.set_byte_offset(writer.position());
    entry.set_byte_length(ElementCount(run) * element);
    digest.Reset();
    MNEMO_RETURN_IF_ERROR(writer.Write({bytes, static_cast<size_t>(entry.byte_length())}, &digest));
    entry.set_xxh3_128(ToBytes(digest.Finish()));
    bytes += entry.byte_length();
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::CheckpointFragment> WriteFile(FileSystem& fs, const std::string& directory,
                                                 int rank, std::span<const DeferredPiece> pieces,
                                                 const PieceValue& value, int64_t piece_bytes) {
  v1::CheckpointFragment fragment;
  TensorList list(fragment);
  std::vector<Hdf5DatasetSpec> datasets;
  std::vector<std::pair<size_t, v1::CheckpointTensor*>> contents;
  for (size_t i = 0; i < pieces.size(); ++i) {
    v1::CheckpointTensor* tensor = nullptr;
    MNEMO_ASSIGN_OR_RETURN(tensor, list.Add(pieces[i]));
    if (ElementCount(pieces[i].box) == 0) continue;
    datasets.push_back(DatasetOf(pieces[i]));
    contents.emplace_back(i, tensor);
  }
  if (contents.empty()) return fragment;
  Hdf5Layout layout;
  MNEMO_ASSIGN_OR_RETURN(
      layout, LayOutHdf5(datasets, {{"format", "mnemosyne-checkpoint"},
                                    {"format_version", std::to_string(kCheckpointFormatVersion)}}));
  v1::CheckpointFile& file = *fragment.add_files();
  file.set_path(fmt::format("rank-{:05}.h5", rank));
  file.set_rank(rank);
  std::unique_ptr<WritableFile> created;
  MNEMO_ASSIGN_OR_RETURN(created, fs.Create(directory + "/" + file.path()));
  FileWriter writer(std::move(created));
  MNEMO_RETURN_IF_ERROR(writer.Write(layout.header));
  for (size_t i = 0; i < contents.size(); ++i) {
    const auto& [piece, tensor] = contents[i];
    MNEMO_RETURN_IF_ERROR(WriteContents(pieces[piece], value(piece), layout.offsets[i], piece_bytes,
                                        writer, *tensor));
  }
  MNEMO_CHECK(writer.position() == layout.bytes);
  MNEMO_RETURN_IF_ERROR(writer.Finish(file));
  return fragment;
}

}  // namespace

StatePiece WholePiece(std::string name, Tensor value) {
  const Shape shape = value.shape();
  return {std::move(name), shape, Shape(shape.size(), 0), std::move(value)};
}

absl::StatusOr<v1::CheckpointFragment> WriteCheckpointFile(
    FileSystem& fs, const std::string& temporary, int rank, std::span<const DeferredPiece> pieces,
    const std::function<absl::StatusOr<Tensor>(size_t)>& value, int64_t piece_bytes) {
  // Other ranks wait for the answer of this one: nothing may escape.
  try {
    return WriteFile(fs, temporary, rank, pieces, value, piece_bytes);
  } catch (const TensorError& error) {
    return error.status();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        fmt::format("out of memory while writing rank {}'s part of {}", rank, temporary));
  }
}

absl::StatusOr<v1::CheckpointFragment> WriteCheckpointFile(FileSystem& fs,
                                                           const std::string& temporary, int rank,
                                                           std::span<const StatePiece> pieces,
                                                           int64_t piece_bytes) {
  std::vector<DeferredPiece> deferred;
  for (const StatePiece& piece : pieces) {
    if (!piece.value.defined()) {
      return InvalidArgument("the piece of {} given has no value", piece.name);
    }
    deferred.push_back(
        {piece.name, piece.whole, {piece.begin, piece.value.shape()}, piece.value.dtype()});
  }
  const auto value = [&](size_t i) -> absl::StatusOr<Tensor> { return pieces[i].value; };
  return WriteCheckpointFile(fs, temporary, rank, deferred, value, piece_bytes);
}

}  // namespace mnemo
