#include "src/data/shard_writer.h"

#include <unistd.h>

#include <vector>

#include "src/core/status.h"
#include "src/data/block_stage.h"

namespace mnemo {
namespace {

template <typename T>
std::string_view AsBytes(const T& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(values[0])};
}

// Durable before the rename: otherwise a crash can leave the name with nothing behind it.
absl::Status SyncFile(FileSystem& fs, const std::string& path) {
  MNEMO_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.OpenAppend(path));
  MNEMO_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

absl::Status WriteDigests(Hdf5File& file, const std::string& name, const std::string& digests) {
  const int64_t rows = static_cast<int64_t>(digests.size()) / 16;
  MNEMO_ASSIGN_OR_RETURN(Hdf5Dataset dataset,
                         file.CreateDataset(name, Hdf5Type::kUint8, {rows, 16}));
  return dataset.Write(0, rows, digests.data());
}

}  // namespace

ShardWriter::ShardWriter(FileSystem& fs, std::string path, ShardTokenizer tokenizer,
                         std::string model)
    : fs_(fs), path_(std::move(path)), model_(std::move(model)) {
  header_.tokenizer = std::move(tokenizer);
}

ShardWriter::~ShardWriter() = default;

absl::StatusOr<std::unique_ptr<ShardWriter>> ShardWriter::Create(FileSystem& fs,
                                                                 const std::string& path,
                                                                 const ShardTokenizer& tokenizer,
                                                                 const std::string& model) {
  std::unique_ptr<ShardWriter> writer(new ShardWriter(fs, path, tokenizer, model));
  MNEMO_ASSIGN_OR_RETURN(writer->token_stage_,
                         internal::BlockStage::Create(fs, path + ".tokens.tmp"));
  MNEMO_ASSIGN_OR_RETURN(writer->offset_stage_,
                         internal::BlockStage::Create(fs, path + ".offsets.tmp"));
  const std::array<uint64_t, 1> start = {0};
  MNEMO_RETURN_IF_ERROR(writer->offset_stage_->Append(AsBytes(start)));
  return writer;
}

int64_t ShardWriter::token_bytes() const { return header_.tokens * header_.token_bytes(); }

absl::Status ShardWriter::Append(std::span<const int32_t> tokens) {
  for (int32_t token : tokens) {
    if (token < 0 || token >= header_.tokenizer.vocabulary) {
      return InvalidArgument("token {} is outside the vocabulary of {}", token,
                             header_.tokenizer.vocabulary);
    }
  }
  if (header_.token_type() == Hdf5Type::kUint16) {
    const std::vector<uint16_t> narrow(tokens.begin(), tokens.end());
    MNEMO_RETURN_IF_ERROR(token_stage_->Append(AsBytes(narrow)));
  } else {
    MNEMO_RETURN_IF_ERROR(token_stage_->Append(AsBytes(tokens)));
  }
  document_tokens_ += static_cast<int64_t>(tokens.size());
  header_.tokens += static_cast<int64_t>(tokens.size());
  return absl::OkStatus();
}

absl::Status ShardWriter::EndDocument() {
  if (document_tokens_ == 0) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(Append({&header_.tokenizer.separator, 1}));
  document_tokens_ = 0;
  ++header_.documents;
  const std::array<uint64_t, 1> end = {static_cast<uint64_t>(header_.tokens)};
  return offset_stage_->Append(AsBytes(end));
}

absl::StatusOr<ShardHeader> ShardWriter::Finish() {
  if (document_tokens_ != 0) return FailedPrecondition("{}: a document is still open", path_);
  MNEMO_RETURN_IF_ERROR(token_stage_->Finish());
  MNEMO_RETURN_IF_ERROR(offset_stage_->Finish());
  const std::string temporary = path_ + ".tmp";
  absl::Status status = WriteHdf5(temporary);
  if (status.ok()) status = SyncFile(fs_, temporary);
  if (status.ok()) status = fs_.Rename(temporary, path_);
  if (!status.ok()) {
    if (fs_.Exists(temporary)) fs_.Remove(temporary).IgnoreError();
    return status;
  }
  MNEMO_RETURN_IF_ERROR(fs_.SyncDirectory(ParentDirectory(path_)));
  token_stage_.reset();
  offset_stage_.reset();
  return header_;
}

absl::Status ShardWriter::WriteHdf5(const std::string& path) {
  MNEMO_ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::Create(path));
  absl::Status status = FillHdf5(file);
  if (status.ok()) status = file.Close();
  // Where the disk is full the library cannot write its metadata either, and would try again at
  // every chance until the process ends. Giving the space back lets it close for good; the file
  // is removed at once.
  if (!status.ok() && ::truncate(path.c_str(), 0) != 0) fs_.Remove(path).IgnoreError();
  return status;
}

absl::Status ShardWriter::FillHdf5(Hdf5File& file) {
  const ShardTokenizer& tokenizer = header_.tokenizer;
  const std::string& token_digests = token_stage_->digests();
  const std::string& offset_digests = offset_stage_->digests();
  const auto number = [&](const char* name, uint64_t value) {
    return file.WriteAttribute(name, value);
  };
  MNEMO_RETURN_IF_ERROR(file.WriteAttribute("format", std::string(kShardFormat)));
  MNEMO_RETURN_IF_ERROR(number("schema_version", kShardSchemaVersion));
  MNEMO_RETURN_IF_ERROR(number("block_bytes", kShardBlockBytes));
  MNEMO_RETURN_IF_ERROR(file.WriteAttribute("tokenizer_kind", tokenizer.kind));
  MNEMO_RETURN_IF_ERROR(file.WriteAttribute("tokenizer_hash", tokenizer.hash.Hex()));
  MNEMO_RETURN_IF_ERROR(number("vocabulary", static_cast<uint64_t>(tokenizer.vocabulary)));
  MNEMO_RETURN_IF_ERROR(number("separator", static_cast<uint64_t>(tokenizer.separator)));
  MNEMO_RETURN_IF_ERROR(number("tokens", static_cast<uint64_t>(header_.tokens)));
  MNEMO_RETURN_IF_ERROR(number("documents", static_cast<uint64_t>(header_.documents)));
  MNEMO_RETURN_IF_ERROR(file.WriteAttribute(
      "header_digest", HeaderDigest(header_, token_digests, offset_digests).Hex()));
  MNEMO_RETURN_IF_ERROR(WriteDigests(file, "token_digests", token_digests));
  MNEMO_RETURN_IF_ERROR(WriteDigests(file, "offset_digests", offset_digests));
  const int64_t model_bytes = static_cast<int64_t>(model_.size());
  MNEMO_ASSIGN_OR_RETURN(Hdf5Dataset model,
                         file.CreateDataset("tokenizer_model", Hdf5Type::kUint8, {model_bytes}));
  MNEMO_RETURN_IF_ERROR(model.Write(0, model_bytes, model_.data()));
  MNEMO_ASSIGN_OR_RETURN(
      Hdf5Dataset offsets,
      file.CreateDataset("document_offsets", Hdf5Type::kUint64, {header_.documents + 1}));
  MNEMO_RETURN_IF_ERROR(offset_stage_->CopyTo(offsets, 8));
  MNEMO_ASSIGN_OR_RETURN(Hdf5Dataset tokens,
                         file.CreateDataset("tokens", header_.token_type(), {header_.tokens}));
  return token_stage_->CopyTo(tokens, header_.token_bytes());
}

}  // namespace mnemo
