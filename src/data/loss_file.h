// Losses of single tokens on disk: an HDF5 file with
//   loss              f32 [N]      one a token, in the order of the stream, in nats; NaN where the
//                                  token has no target
//   sequence_offsets  u64 [S + 1]  sequence i is tokens [offset i, offset i + 1)
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/core/file_system.h"
#include "src/data/hdf5.h"

namespace mnemo {

// Not thread-safe. Without Finish the file is removed.
class LossFileWriter {
 public:
  // Writes to `path + ".tmp"` until Finish. `sequence_offsets` begin with 0 and end with N.
  static absl::StatusOr<std::unique_ptr<LossFileWriter>> Create(
      FileSystem& fs, const std::string& path, const std::vector<uint64_t>& sequence_offsets);
  ~LossFileWriter();

  // The next losses; a target below 0 says that there is none.
  absl::Status Append(std::span<const float> losses, std::span<const int32_t> targets);
  // Syncs and renames. FailedPrecondition unless all N losses have been given.
  absl::Status Finish();

 private:
  LossFileWriter(FileSystem& fs, std::string path) : fs_(fs), path_(std::move(path)) {}
  std::string temporary() const { return path_ + ".tmp"; }

  FileSystem& fs_;
  std::string path_;
  std::optional<Hdf5File> file_;
  std::optional<Hdf5Dataset> losses_;
  int64_t written_ = 0;
};

}  // namespace mnemo
