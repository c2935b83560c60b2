#include "src/data/shard_reader.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "src/core/status.h"
#include "src/data/tokenizer.h"

namespace mnemo {
namespace {

constexpr const char* kRepair = "restore the file or prepare the data again";

absl::StatusOr<Digest> ParseDigest(const std::string& hex) {
  Digest digest;
  if (hex.size() == 2 * digest.bytes.size() &&
      hex.find_first_not_of("0123456789abcdef") == std::string::npos) {
    for (size_t i = 0; i < digest.bytes.size(); ++i) {
      digest.bytes[i] = static_cast<uint8_t>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
    }
    return digest;
  }
  return DataLoss("'{}' is not a digest", hex);
}

// -1 if it cannot be found.
int64_t SizeOfFile(const std::string& path) {
  std::error_code error;
  return static_cast<int64_t>(std::filesystem::file_size(path, error));
}

// Reads attributes until one fails, then keeps that failure.
class Attributes {
 public:
  explicit Attributes(const Hdf5File& file) : file_(file) {}
  int64_t Number(const char* name) {
    absl::StatusOr<uint64_t> value = file_.ReadUint64(name);
    if (value.ok() && *value > uint64_t{INT64_MAX}) {
      value = DataLoss("{}: attribute {} is absurd: {}", file_.path(), name, *value);
    }
    return Keep(std::move(value));
  }
  std::string Text(const char* name) { return Keep(file_.ReadString(name)); }
  Digest Hash(const char* name) {
    const std::string hex = Text(name);
    return status_.ok() ? Keep(ParseDigest(hex)) : Digest{};
  }
  const absl::Status& status() const { return status_; }

 private:
  template <typename T>
  T Keep(absl::StatusOr<T> value) {
    if (value.ok()) return *std::move(value);
    if (status_.ok()) status_ = value.status();
    return T{};
  }
  const Hdf5File& file_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ShardReader>> ShardReader::Open(const std::string& path,
                                                               bool keep_open) {
  std::unique_ptr<ShardReader> reader(new ShardReader(path, keep_open));
  MNEMO_ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::OpenReadOnly(path));
  MNEMO_RETURN_IF_ERROR(reader->ReadHeader(file));
  if (keep_open) reader->file_ = std::move(file);
  return reader;
}

absl::Status ShardReader::ReadHeader(const Hdf5File& file) {
  Attributes attributes(file);
  const std::string format = attributes.Text("format");
  if (!attributes.status().ok() || format != kShardFormat) {
    return DataLoss("{} is not a token shard: its attribute format is not '{}'", path_,
                    kShardFormat);
  }
  const int64_t version = attributes.Number("schema_version");
  if (attributes.status().ok() && version != int64_t{kShardSchemaVersion}) {
    return DataLoss(
        "{} has schema version {}, this program reads version {}: prepare the data "
        "again",
        path_, version, kShardSchemaVersion);
  }
  const int64_t block_bytes = attributes.Number("block_bytes");
  header_.tokenizer.kind = attributes.Text("tokenizer_kind");
  header_.tokenizer.hash = attributes.Hash("tokenizer_hash");
  header_.tokenizer.vocabulary = attributes.Number("vocabulary");
  header_.tokenizer.separator = static_cast<int32_t>(attributes.Number("separator"));
  header_.tokens = attributes.Number("tokens");
  header_.documents = attributes.Number("documents");
  header_digest_ = attributes.Hash("header_digest");
  MNEMO_RETURN_IF_ERROR(attributes.status());
  // Numbers that cannot be right would otherwise turn into absurd allocations below.
  const int64_t size = SizeOfFile(path_);
  if (block_bytes != kShardBlockBytes || header_.tokenizer.vocabulary < 1 ||
      header_.tokenizer.vocabulary > INT32_MAX || header_.tokens > size ||
      header_.documents > size || header_.tokenizer.separator < 0 ||
      header_.tokenizer.separator >= header_.tokenizer.vocabulary) {
    return DataLoss("{}: the numbers in its header do not fit together; {}", path_, kRepair);
  }
  tokens_ = {"tokens", header_.token_type(), header_.tokens, header_.token_bytes(), {}, {}, {}};
  offsets_ = {"document_offsets", Hdf5Type::kUint64, header_.documents + 1, 8, {}, {}, {}};
  MNEMO_RETURN_IF_ERROR(OpenBlocked(file, "token_digests", header_.token_blocks(), tokens_));
  MNEMO_RETURN_IF_ERROR(OpenBlocked(file, "offset_digests", header_.offset_blocks(), offsets_));
  if (HeaderDigest(header_, tokens_.digests, offsets_.digests) != header_digest_) {
    return DataLoss("{}: the header does not match its digest: the file is damaged; {}", path_,
                    kRepair);
  }
  return absl::OkStatus();
}

absl::Status ShardReader::OpenBlocked(const Hdf5File& file, const std::string& digest_name,
                                      int64_t blocks, Blocked& blocked) {
  MNEMO_ASSIGN_OR_RETURN(Hdf5Dataset data, file.OpenDataset(blocked.name, blocked.type, 1));
  MNEMO_ASSIGN_OR_RETURN(Hdf5Dataset digests, file.OpenDataset(digest_name, Hdf5Type::kUint8, 2));
  if (data.rows() != blocked.rows || digests.rows() != blocks || digests.shape()[1] != 16) {
    return DataLoss("{}: the sizes of {} and {} do not match the header; {}", path_, blocked.name,
                    digest_name, kRepair);
  }
  blocked.digests.resize(static_cast<size_t>(blocks) * 16);
  blocked.verified.assign(static_cast<size_t>(blocks), false);
  return digests.Read(0, blocks, blocked.digests.data());
}

absl::Status ShardReader::OpenFile() {
  if (file_.has_value()) return absl::OkStatus();
  MNEMO_ASSIGN_OR_RETURN(Hdf5File file, Hdf5File::OpenReadOnly(path_));
  // Blocks verified earlier count only while it is the same shard.
  MNEMO_ASSIGN_OR_RETURN(std::string digest, file.ReadString("header_digest"));
  if (digest != header_digest_.Hex()) {
    return FailedPrecondition("{} was replaced while it was in use: start again", path_);
  }
  file_ = std::move(file);
  return absl::OkStatus();
}

void ShardReader::CloseFile() {
  tokens_.data.reset();
  offsets_.data.reset();
  file_.reset();
}

absl::Status ShardReader::ReadBlock(Blocked& blocked, int64_t block) {
  const int64_t block_rows = kShardBlockBytes / blocked.row_bytes;
  const int64_t first = block * block_rows;
  const int64_t rows = std::min(block_rows, blocked.rows - first);
  scratch_.resize(static_cast<size_t>(rows * blocked.row_bytes));
  MNEMO_RETURN_IF_ERROR(blocked.data->Read(first, rows, scratch_.data()));
  const Digest digest = DigestOf(scratch_);
  if (std::memcmp(digest.bytes.data(), blocked.digests.data() + 16 * block, 16) != 0) {
    return DataLoss(
        "{}: block {} of {} (rows {} to {}) does not match its digest: the file is "
        "damaged; {}",
        path_, block, blocked.name, first, first + rows - 1, kRepair);
  }
  if (&blocked == &tokens_) MNEMO_RETURN_IF_ERROR(CheckTokens());
  blocked.verified[static_cast<size_t>(block)] = true;
  return absl::OkStatus();
}

// Shards may come from other programs: a digest says that nothing changed, not that it was right.
absl::Status ShardReader::CheckTokens() const {
  const auto check = [&](auto zero) -> absl::Status {
    using T = decltype(zero);
    const T* values = reinterpret_cast<const T*>(scratch_.data());
    T largest = 0;
    for (size_t i = 0; i < scratch_.size() / sizeof(T); ++i) largest = std::max(largest, values[i]);
    if (largest < header_.tokenizer.vocabulary) return absl::OkStatus();
    return DataLoss("{}: token {} is outside its vocabulary of {}", path_, largest,
                    header_.tokenizer.vocabulary);
  };
  return tokens_.row_bytes == 2 ? check(uint16_t{0}) : check(uint32_t{0});
}

absl::Status ShardReader::ReadBlocked(Blocked& blocked, int64_t first, int64_t count, void* out) {
  if (first < 0 || count < 0 || first > blocked.rows - count) {
    return InvalidArgument("{}: rows [{}, {}) of {} lie outside its {}", path_, first,
                           first + count, blocked.name, blocked.rows);
  }
  if (count == 0) return absl::OkStatus();
  MNEMO_RETURN_IF_ERROR(OpenFile());
  if (!blocked.data.has_value()) {
    MNEMO_ASSIGN_OR_RETURN(blocked.data, file_->OpenDataset(blocked.name, blocked.type, 1));
  }
  const absl::Status status = CopyBlocks(blocked, first, count, static_cast<char*>(out));
  std::string().swap(scratch_);  // there may be many readers
  if (!keep_open_) CloseFile();
  return status;
}

absl::Status ShardReader::CopyBlocks(Blocked& blocked, int64_t first, int64_t count, char* out) {
  const int64_t block_rows = kShardBlockBytes / blocked.row_bytes;
  for (int64_t at = first; at < first + count;) {
    const int64_t block = at / block_rows;
    const int64_t take = std::min((block + 1) * block_rows, first + count) - at;
    const size_t bytes = static_cast<size_t>(take * blocked.row_bytes);
    if (blocked.verified[static_cast<size_t>(block)]) {
      MNEMO_RETURN_IF_ERROR(blocked.data->Read(at, take, out));
    } else {
      MNEMO_RETURN_IF_ERROR(ReadBlock(blocked, block));
      std::memcpy(out, scratch_.data() + (at - block * block_rows) * blocked.row_bytes, bytes);
    }
    out += bytes;
    at += take;
  }
  return absl::OkStatus();
}

absl::Status ShardReader::ReadTokens(int64_t first, std::span<int32_t> out) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int64_t count = static_cast<int64_t>(out.size());
  if (tokens_.row_bytes == 4) return ReadBlocked(tokens_, first, count, out.data());
  // The narrow values go into the second half of the output and are widened from the front: the
  // write to place i never passes the read at its place.
  char* base = reinterpret_cast<char*>(out.data());
  char* narrow = base + 2 * out.size();
  MNEMO_RETURN_IF_ERROR(ReadBlocked(tokens_, first, count, narrow));
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t value;
    std::memcpy(&value, narrow + 2 * i, 2);
    const int32_t wide = value;
    std::memcpy(base + 4 * i, &wide, 4);
  }
  return absl::OkStatus();
}

absl::Status ShardReader::ReadOffsets(int64_t first, std::span<uint64_t> out) {
  std::lock_guard<std::mutex> lock(mutex_);
  return ReadBlocked(offsets_, first, static_cast<int64_t>(out.size()), out.data());
}

absl::StatusOr<std::string> ShardReader::ReadTokenizerModel() {
  std::lock_guard<std::mutex> lock(mutex_);
  MNEMO_RETURN_IF_ERROR(OpenFile());
  std::string model;
  {
    MNEMO_ASSIGN_OR_RETURN(Hdf5Dataset dataset,
                           file_->OpenDataset("tokenizer_model", Hdf5Type::kUint8, 1));
    // A dataset may be declared that was never written: of any size, in a small file.
    if (dataset.rows() > SizeOfFile(path_)) {
      return DataLoss("{}: the tokenizer's model cannot have {} bytes; {}", path_, dataset.rows(),
                      kRepair);
    }
    model.resize(static_cast<size_t>(dataset.rows()));
    MNEMO_RETURN_IF_ERROR(dataset.Read(0, dataset.rows(), model.data()));
  }
  if (!keep_open_) CloseFile();
  if (TokenizerHash(header_.tokenizer.kind, model) != header_.tokenizer.hash) {
    return DataLoss("{}: the tokenizer's model does not match its hash: the file is damaged; {}",
                    path_, kRepair);
  }
  return model;
}

absl::Status ShardReader::Verify() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    tokens_.verified.assign(tokens_.verified.size(), false);
    offsets_.verified.assign(offsets_.verified.size(), false);
  }
  MNEMO_RETURN_IF_ERROR(ReadTokenizerModel().status());
  constexpr int64_t kRows = int64_t{1} << 17;
  uint64_t previous = 0;
  std::vector<uint64_t> offsets;
  for (int64_t at = 0; at <= header_.documents; at += kRows) {
    offsets.resize(static_cast<size_t>(std::min(kRows, header_.documents + 1 - at)));
    MNEMO_RETURN_IF_ERROR(ReadOffsets(at, offsets));
    for (size_t i = 0; i < offsets.size(); ++i) {
      if (at + static_cast<int64_t>(i) == 0 ? offsets[i] != 0 : offsets[i] <= previous) {
        return DataLoss("{}: document offset {} is out of order", path_, at + i);
      }
      previous = offsets[i];
    }
  }
  if (previous != static_cast<uint64_t>(header_.tokens)) {
    return DataLoss("{}: the last document ends at token {} of {}", path_, previous,
                    header_.tokens);
  }
  std::vector<int32_t> tokens;
  const int64_t token_rows = kShardBlockBytes / header_.token_bytes();  // whole blocks: read once
  for (int64_t at = 0; at < header_.tokens; at += token_rows) {
    tokens.resize(static_cast<size_t>(std::min(token_rows, header_.tokens - at)));
    MNEMO_RETURN_IF_ERROR(ReadTokens(at, tokens));
  }
  return absl::OkStatus();
}

}  // namespace mnemo
