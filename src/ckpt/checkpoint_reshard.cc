#include "src/ckpt/checkpoint_reshard.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "src/ckpt/manifest.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

int64_t RowsIn(const Shape& shape) { return shape.empty() ? 1 : shape[0]; }

// Cuts the bytes of all tensors, one after the other, into equal shares, at borders of rows.
class FileShares {
 public:
  FileShares(const v1::CheckpointManifest& manifest, int files)
      : manifest_(manifest), files_(files) {
    for (const v1::CheckpointTensor& tensor : manifest.tensors()) total_ += BytesOf(tensor);
  }

  std::vector<DeferredPiece> PiecesOf(int file) const {
    std::vector<DeferredPiece> pieces;
    int64_t start = 0;
    for (const v1::CheckpointTensor& tensor : manifest_.tensors()) {
      const Shape shape = ShapeOf(tensor);
      const int64_t bytes = BytesOf(tensor);
      const int64_t row = bytes == 0 ? 0 : bytes / RowsIn(shape);
      const int64_t first = FirstRow(file, start, row, RowsIn(shape)),
                    end = FirstRow(file + 1, start, row, RowsIn(shape));
      start += bytes;
      // One without elements is in the first file's list alone.
      if (bytes == 0 ? file > 0 : first == end) continue;
      Box box = WholeBox(shape);
      if (bytes > 0 && !shape.empty()) {
        box.begin[0] = first;
        box.shape[0] = end - first;
      }
      pieces.push_back({tensor.name(), shape, std::move(box), DTypeOf(tensor)});
    }
    return pieces;
  }

 private:
  // The first row of a tensor, which begins at `start`, that does not begin before a file's share.
  int64_t FirstRow(int file, int64_t start, int64_t row_bytes, int64_t rows) const {
    if (row_bytes == 0) return 0;
    const int64_t border = total_ / files_ * file + total_ % files_ * file / files_ - start;
    return std::clamp<int64_t>((border + row_bytes - 1) / row_bytes, 0, rows);
  }

  const v1::CheckpointManifest& manifest_;
  const int files_;
  int64_t total_ = 0;
};

absl::StatusOr<std::string> WriteAnew(FileSystem& fs, const CheckpointReader& from,
                                      const std::string& temporary, const ReshardOptions& options) {
  const FileShares shares(from.manifest(), options.files);
  std::vector<v1::CheckpointFragment> fragments;
  int64_t written = 0;
  for (int file = 0; file < options.files; ++file) {
    const std::vector<DeferredPiece> pieces = shares.PiecesOf(file);
    const auto value = [&](size_t i) -> absl::StatusOr<Tensor> {
      options.on_progress(written);
      written += ElementCount(pieces[i].box) * SizeOf(pieces[i].dtype);
      return from.ReadBox(pieces[i].name, pieces[i].box);
    };
    MNEMO_ASSIGN_OR_RETURN(
        fragments.emplace_back(),
        WriteCheckpointFile(fs, temporary, file, pieces, value, options.piece_bytes));
  }
  options.on_progress(written);
  return CommitCheckpoint(fs, temporary, fragments, from.manifest());
}

}  // namespace

absl::StatusOr<std::string> ReshardCheckpoint(FileSystem& fs, const CheckpointReader& from,
                                              const std::string& checkpoints,
                                              const ReshardOptions& options) {
  if (options.files < 1) {
    return InvalidArgument("a checkpoint needs at least one file, {} were asked for",
                           options.files);
  }
  MNEMO_ASSIGN_OR_RETURN(const std::string temporary,
                         BeginCheckpoint(fs, checkpoints, from.manifest().training().step()));
  auto directory = WriteAnew(fs, from, temporary, options);
  if (!directory.ok()) AbandonCheckpoint(fs, temporary);
  return directory;
}

}  // namespace mnemo
