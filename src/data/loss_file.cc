#include "src/data/loss_file.h"

#include <cmath>

#include "src/core/status.h"

namespace mnemo {

absl::StatusOr<std::unique_ptr<LossFileWriter>> LossFileWriter::Create(
    FileSystem& fs, const std::string& path, const std::vector<uint64_t>& sequence_offsets) {
  std::unique_ptr<LossFileWriter> writer(new LossFileWriter(fs, path));
  MNEMO_ASSIGN_OR_RETURN(writer->file_, Hdf5File::Create(writer->temporary()));
  const int64_t count = static_cast<int64_t>(sequence_offsets.back());
  MNEMO_ASSIGN_OR_RETURN(writer->losses_,
                         writer->file_->CreateDataset("loss", Hdf5Type::kFloat32, {count}));
  const int64_t entries = static_cast<int64_t>(sequence_offsets.size());
  MNEMO_ASSIGN_OR_RETURN(
      Hdf5Dataset offsets,
      writer->file_->CreateDataset("sequence_offsets", Hdf5Type::kUint64, {entries}));
  MNEMO_RETURN_IF_ERROR(offsets.Write(0, entries, sequence_offsets.data()));
  return writer;
}

LossFileWriter::~LossFileWriter() {
  if (!file_.has_value()) return;
  losses_.reset();
  file_.reset();
  (void)fs_.Remove(temporary());
}

absl::Status LossFileWriter::Append(std::span<const float> losses,
                                    std::span<const int32_t> targets) {
  std::vector<float> values(losses.begin(), losses.end());
  for (size_t i = 0; i < values.size(); ++i) {
    if (targets[i] < 0) values[i] = std::nanf("");
  }
  const int64_t count = static_cast<int64_t>(values.size());
  MNEMO_RETURN_IF_ERROR(losses_->Write(written_, count, values.data()));
  written_ += count;
  return absl::OkStatus();
}

absl::Status LossFileWriter::Finish() {
  if (written_ != losses_->rows()) {
    return FailedPrecondition("{}: {} losses of {}", path_, written_, losses_->rows());
  }
  losses_.reset();
  MNEMO_RETURN_IF_ERROR(file_->Close());
  std::unique_ptr<WritableFile> written;
  MNEMO_ASSIGN_OR_RETURN(written, fs_.OpenAppend(temporary()));
  MNEMO_RETURN_IF_ERROR(written->Sync());
  MNEMO_RETURN_IF_ERROR(written->Close());
  MNEMO_RETURN_IF_ERROR(fs_.Rename(temporary(), path_));
  file_.reset();
  return fs_.SyncDirectory(ParentDirectory(path_));
}

}  // namespace mnemo
