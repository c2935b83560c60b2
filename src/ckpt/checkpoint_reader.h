// Reading checkpoints, whatever mesh wrote them: any box of any tensor.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/checkpoint.pb.h"
#include "src/ckpt/box.h"
#include "src/core/file_system.h"
#include "src/core/tensor.h"

namespace mnemo {

// Immutable and thread-safe; copies share the manifest and an open file. `fs` outlives it.
class CheckpointReader {
 public:
  // Reads the manifest in `directory` and checks it, and that every file is there and has its
  // length. NotFound without a manifest; otherwise DataLoss, or FailedPrecondition for another
  // format version, naming the file.
  static absl::StatusOr<CheckpointReader> Open(FileSystem& fs, const std::string& directory);

  const std::string& directory() const { return directory_; }
  const v1::CheckpointManifest& manifest() const { return *manifest_; }
  // Null if there is no such tensor.
  const v1::CheckpointTensor* Find(std::string_view name) const;

  // Part of a tensor, in host memory, of the dtype it was saved with. Reads the pieces that share
  // elements with `box`, each whole, by their offsets, and checks the digest of each before its
  // bytes are used. NotFound without such a tensor, InvalidArgument if the box does not lie in it,
  // DataLoss naming the file if a piece is damaged.
  absl::StatusOr<Tensor> ReadBox(std::string_view name, const Box& box) const;
  absl::StatusOr<Tensor> Read(std::string_view name) const;  // all of it
  // The same into `out`, in host memory, contiguous, of the box's shape and the tensor's dtype: no
  // copy is made of what lies together in both. After an error `out` may hold anything.
  absl::Status ReadBoxInto(std::string_view name, const Box& box, const Tensor& out) const;

 private:
  CheckpointReader(FileSystem& fs, std::string directory) : fs_(&fs), directory_(directory) {}
  // The file read last stays open, so that what follows in it is read ahead.
  struct LastFile {
    std::mutex mutex;
    int number = -1;
    std::shared_ptr<ReadableFile> file;
  };
  absl::StatusOr<const v1::CheckpointTensor*> FindBox(std::string_view name, const Box& box) const;
  std::string PathOf(int file) const { return directory_ + "/" + manifest_->files(file).path(); }
  absl::StatusOr<std::shared_ptr<ReadableFile>> OpenFile(int number) const;
  absl::Status ReadPiece(const v1::CheckpointTensor& tensor, const v1::CheckpointPiece& piece,
                         const Box& box, const Tensor& out) const;

  FileSystem* fs_;
  std::string directory_;
  std::shared_ptr<const v1::CheckpointManifest> manifest_;
  std::map<std::string_view, const v1::CheckpointTensor*> tensors_;  // views into *manifest_
  std::shared_ptr<LastFile> last_ = std::make_shared<LastFile>();
};

struct CheckpointVerification {
  int64_t files = 0, bytes = 0, pieces = 0;  // read
  std::vector<std::string> problems;         // each names its file; empty if all is well
  std::vector<std::string> strangers;        // names in the directory that the manifest lacks
};

// Reads every byte, once, and checks every digest: of the manifest, the files and the pieces. An
// error only where the manifest cannot be believed or a file cannot be read, which says nothing
// about what is in it; everything else is in the result.
absl::StatusOr<CheckpointVerification> VerifyCheckpoint(FileSystem& fs,
                                                        const std::string& directory);

}  // namespace mnemo
