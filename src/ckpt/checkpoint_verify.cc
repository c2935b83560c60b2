#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/manifest.h"
#include "src/core/digest.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr int64_t kVerifiedBlock = int64_t{1} << 20;

struct PieceInFile {
  const v1::CheckpointTensor* tensor;
  const v1::CheckpointPiece* piece;
};

// The pieces of every file, in the order of their bytes.
std::vector<std::vector<PieceInFile>> PiecesByFile(const v1::CheckpointManifest& manifest) {
  std::vector<std::vector<PieceInFile>> files(manifest.files_size());
  for (const v1::CheckpointTensor& tensor : manifest.tensors()) {
    for (const v1::CheckpointPiece& piece : tensor.pieces()) {
      files[piece.file()].push_back({&tensor, &piece});
    }
  }
  for (auto& pieces : files) {
    std::sort(pieces.begin(), pieces.end(), [](const PieceInFile& a, const PieceInFile& b) {
      return a.piece->byte_offset() < b.piece->byte_offset();
    });
  }
  return files;
}

// Reads one file front to back, once: all of it into one digest, each piece into another.
class FileCheck {
 public:
  FileCheck(std::unique_ptr<ReadableFile> file, std::string path)
      : file_(std::move(file)), path_(std::move(path)) {}

  absl::Status Run(const v1::CheckpointFile& file, const std::vector<PieceInFile>& pieces,
                   std::vector<std::string>& problems) {
    bool damaged_piece = false;
    for (const PieceInFile& entry : pieces) {
      const v1::CheckpointPiece& piece = *entry.piece;
      MNEMO_RETURN_IF_ERROR(ReadUpTo(piece.byte_offset(), nullptr));
      DigestStream digest;
      MNEMO_RETURN_IF_ERROR(ReadUpTo(piece.byte_offset() + piece.byte_length(), &digest));
      if (Matches(piece.xxh3_128(), digest.Finish())) continue;
      damaged_piece = true;
      problems.push_back(
          fmt::format("{}: piece {} of tensor {} is damaged: the {} bytes from byte {} do not "
                      "match their digest",
                      path_, ToString(BoxOf(piece)), entry.tensor->name(), piece.byte_length(),
                      piece.byte_offset()));
    }
    MNEMO_RETURN_IF_ERROR(ReadUpTo(file.bytes(), nullptr));
    if (!damaged_piece && !Matches(file.xxh3_128(), digest_.Finish())) {
      problems.push_back(fmt::format(
          "{}: is damaged outside of its pieces: its bytes do not match its digest", path_));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status ReadUpTo(int64_t end, DigestStream* piece) {
    while (position_ < end) {
      block_.resize(std::min(kVerifiedBlock, end - position_));
      MNEMO_RETURN_IF_ERROR(file_->Read(position_, block_));
      digest_.Update(block_);
      if (piece != nullptr) piece->Update(block_);
      position_ += static_cast<int64_t>(block_.size());
    }
    return absl::OkStatus();
  }

  std::unique_ptr<ReadableFile> file_;
  std::string path_;
  DigestStream digest_;
  std::string block_;
  int64_t position_ = 0;
};

absl::Status CheckFile(FileSystem& fs, const std::string& path, const v1::CheckpointFile& file,
                       const std::vector<PieceInFile>& pieces, std::vector<std::string>& problems) {
  const absl::StatusOr<int64_t> size = fs.FileSize(path);
  if (absl::IsNotFound(size.status())) return DataLoss("{}: is missing", path);
  MNEMO_ASSIGN_OR_RETURN(const int64_t bytes, size);
  if (bytes != file.bytes()) {
    return DataLoss("{}: has {} bytes instead of {}", path, bytes, file.bytes());
  }
  MNEMO_ASSIGN_OR_RETURN(auto opened, fs.OpenToRead(path));
  return FileCheck(std::move(opened), path).Run(file, pieces, problems);
}

}  // namespace

absl::StatusOr<CheckpointVerification> VerifyCheckpoint(FileSystem& fs,
                                                        const std::string& directory) {
  v1::CheckpointManifest manifest;
  MNEMO_ASSIGN_OR_RETURN(manifest, ReadManifest(fs, directory));
  CheckpointVerification result;
  const auto pieces = PiecesByFile(manifest);
  std::set<std::string, std::less<>> known = {std::string(kManifestName)};
  for (int i = 0; i < manifest.files_size(); ++i) {
    const v1::CheckpointFile& file = manifest.files(i);
    known.insert(file.path());
    const absl::Status status =
        CheckFile(fs, directory + "/" + file.path(), file, pieces[i], result.problems);
    if (!status.ok() && !absl::IsDataLoss(status)) return status;  // says nothing about the file
    if (!status.ok()) {
      result.problems.emplace_back(status.message());
      continue;
    }
    ++result.files;
    result.bytes += file.bytes();
    result.pieces += static_cast<int64_t>(pieces[i].size());
  }
  std::vector<std::string> names;
  MNEMO_ASSIGN_OR_RETURN(names, fs.List(directory));
  for (std::string& name : names) {
    if (known.count(name) == 0) result.strangers.push_back(std::move(name));
  }
  return result;
}

}  // namespace mnemo
