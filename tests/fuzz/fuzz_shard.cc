// A token shard. The first byte says how the others are meant: as the file itself, whose structures
// HDF5 reads and checks; or as the values of the attributes and the sizes of the datasets of a file
// that HDF5 finds nothing wrong with.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "src/core/status.h"
#include "src/data/hdf5.h"
#include "src/data/shard_format.h"
#include "src/data/shard_reader.h"
#include "src/data/tokenizer.h"

namespace mnemo {
namespace {

// Takes values off the front of the input; zeros when it has ended.
class Input {
 public:
  explicit Input(std::string_view bytes) : bytes_(bytes) {}
  uint8_t Byte() {
    if (bytes_.empty()) return 0;
    const auto byte = static_cast<uint8_t>(bytes_[0]);
    bytes_.remove_prefix(1);
    return byte;
  }
  // Small ones mostly, so that what belongs together often does.
  uint64_t Number() {
    const uint8_t kind = Byte();
    if (kind < 240) return kind;
    uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | Byte();
    return value >> (kind % 4 * 16);
  }
  std::string_view Rest() const { return bytes_; }

 private:
  std::string_view bytes_;
};

// Of this many rows the contents are given; a larger dataset is only declared.
constexpr int64_t kWritten = 4096;

void AddDataset(Hdf5File& file, const char* name, Hdf5Type type, std::vector<int64_t> shape,
                std::string_view contents) {
  auto dataset = file.CreateDataset(name, type, shape);
  if (!dataset.ok() || dataset->rows() > kWritten) return;
  std::string bytes(static_cast<size_t>(dataset->rows()) * 16, '\0');
  std::memcpy(bytes.data(), contents.data(), std::min(bytes.size(), contents.size()));
  (void)dataset->Write(0, dataset->rows(), bytes.data());
}

int64_t Rows(Input& input, int64_t right) {
  const uint64_t number = input.Number();
  return number < 200 ? right : static_cast<int64_t>(number >> 8);
}

void WriteShard(const std::string& path, Input input) {
  auto file = Hdf5File::Create(path);
  MNEMO_CHECK(file.ok());
  ShardHeader header;
  header.tokenizer.kind = input.Byte() % 4 ? "bytes" : "sentencepiece";
  const std::string model(input.Byte() % 8, 'm');
  header.tokenizer.hash = TokenizerHash(header.tokenizer.kind, model);
  header.tokenizer.vocabulary = static_cast<int64_t>(input.Number());
  header.tokenizer.separator = static_cast<int32_t>(input.Number());
  header.tokens = static_cast<int64_t>(input.Number());
  header.documents = static_cast<int64_t>(input.Number());
  const int64_t tokens = Rows(input, header.tokens);
  const int64_t offsets = Rows(input, static_cast<int64_t>(uint64_t(header.documents) + 1));
  const int64_t digests = Rows(input, 1), offset_digests = Rows(input, 1);
  const int64_t model_rows = Rows(input, static_cast<int64_t>(model.size()));
  const auto right = [](std::string_view contents, int64_t bytes) {
    std::string all(static_cast<size_t>(std::clamp<int64_t>(bytes, 0, 16 * kWritten)), '\0');
    std::memcpy(all.data(), contents.data(), std::min(all.size(), contents.size()));
    const Digest digest = DigestOf(all);
    return std::string(digest.bytes.begin(), digest.bytes.end());
  };
  const bool small = header.tokens >= 0 && header.tokens < kWritten && header.documents >= 0 &&
                     header.documents < kWritten;
  const std::string_view contents = input.Rest();
  const std::string token_digest =
      small ? right(contents, header.tokens * header.token_bytes()) : "";
  const std::string offset_digest = small ? right(contents, (header.documents + 1) * 8) : "";
  (void)file->WriteAttribute("format", std::string(kShardFormat));
  (void)file->WriteAttribute("schema_version", kShardSchemaVersion);
  (void)file->WriteAttribute("block_bytes", uint64_t{kShardBlockBytes});
  (void)file->WriteAttribute("tokenizer_kind", header.tokenizer.kind);
  (void)file->WriteAttribute("tokenizer_hash", header.tokenizer.hash.Hex());
  (void)file->WriteAttribute("vocabulary", uint64_t(header.tokenizer.vocabulary));
  (void)file->WriteAttribute("separator", uint64_t(uint32_t(header.tokenizer.separator)));
  (void)file->WriteAttribute("tokens", uint64_t(header.tokens));
  (void)file->WriteAttribute("documents", uint64_t(header.documents));
  (void)file->WriteAttribute("header_digest",
                             HeaderDigest(header, token_digest, offset_digest).Hex());
  AddDataset(*file, "tokens", header.token_type(), {tokens}, contents);
  AddDataset(*file, "document_offsets", Hdf5Type::kUint64, {offsets}, contents);
  AddDataset(*file, "token_digests", Hdf5Type::kUint8, {digests, 16}, token_digest);
  AddDataset(*file, "offset_digests", Hdf5Type::kUint8, {offset_digests, 16}, offset_digest);
  AddDataset(*file, "tokenizer_model", Hdf5Type::kUint8, {model_rows}, model);
  (void)file->Close();
}

}  // namespace
}  // namespace mnemo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mnemo;
  static const std::string path =
      std::filesystem::temp_directory_path() / ("mnemo_fuzz_" + std::to_string(::getpid()) + ".h5");
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2) {
    WriteShard(path, Input(bytes));
  } else {
    std::ofstream(path, std::ios::binary) << bytes;
  }
  if (const auto reader = ShardReader::Open(path); reader.ok()) (void)(*reader)->Verify();
  std::filesystem::remove(path);
  return 0;
}
