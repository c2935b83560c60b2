#include "src/data/split_writer.h"

#include "src/core/status.h"

namespace mnemo {

SplitWriter::SplitWriter(FileSystem& fs, std::string directory, Split split,
                         ShardTokenizer tokenizer, std::string model, int64_t shard_bytes,
                         PrepareManifest& manifest)
    : fs_(fs),
      directory_(std::move(directory)),
      split_(split),
      tokenizer_(std::move(tokenizer)),
      model_(std::move(model)),
      shard_bytes_(shard_bytes),
      manifest_(manifest) {
  for (const FinishedShard& shard : progress().shards) {
    finished_tokens_ += shard.tokens;
    finished_documents_ += shard.documents;
  }
}

absl::Status SplitWriter::Add(const FedUnit& fed, std::span<const int32_t> tokens) {
  if (!tokens.empty()) {
    if (writer_ == nullptr) {
      const std::string name =
          ShardFileName(kSplitNames[split_], static_cast<int64_t>(progress().shards.size()));
      MNEMO_ASSIGN_OR_RETURN(writer_,
                             ShardWriter::Create(fs_, directory_ + "/" + name, tokenizer_, model_));
    }
    MNEMO_RETURN_IF_ERROR(writer_->Append(tokens));
  }
  if (!fed.unit.last) return absl::OkStatus();
  input_documents_ = fed.documents;
  chain_ = fed.chain;
  if (writer_ == nullptr) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(writer_->EndDocument());
  return writer_->token_bytes() >= shard_bytes_ ? FinishShard() : absl::OkStatus();
}

absl::Status SplitWriter::Finish() { return writer_ == nullptr ? absl::OkStatus() : FinishShard(); }

absl::Status SplitWriter::FinishShard() {
  MNEMO_ASSIGN_OR_RETURN(ShardHeader header, writer_->Finish());
  writer_.reset();
  const int64_t index = static_cast<int64_t>(progress().shards.size());
  progress().shards.push_back(
      {ShardFileName(kSplitNames[split_], index), header.tokens, header.documents});
  progress().documents = input_documents_;
  progress().chain = chain_;
  finished_tokens_ += header.tokens;
  finished_documents_ += header.documents;
  return manifest_.Save(fs_, directory_);
}

int64_t SplitWriter::tokens() const { return finished_tokens_ + (writer_ ? writer_->tokens() : 0); }

int64_t SplitWriter::documents() const {
  return finished_documents_ + (writer_ ? writer_->documents() : 0);
}

}  // namespace mnemo
