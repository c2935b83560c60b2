// The manifest of a checkpoint, as it is read; and, as no fuzzer guesses a digest, the same bytes
// as the message of a manifest whose digest is right, with files of the lengths that it names.
#include <google/protobuf/stubs/logging.h>

#include <string>
#include <string_view>

#include "src/ckpt/checkpoint_reader.h"
#include "src/ckpt/manifest.h"
#include "src/core/status.h"
#include "tests/ckpt/disk_model.h"

namespace mnemo {
namespace {

constexpr int64_t kMostBytes = 1 << 16;  // of the files that are made

void Read(FileSystem& fs, const std::string& directory) {
  const auto reader = CheckpointReader::Open(fs, directory);
  if (!reader.ok()) return;
  for (const auto& tensor : reader->manifest().tensors()) (void)reader->Read(tensor.name());
  (void)VerifyCheckpoint(fs, directory);
}

void Write(FileSystem& fs, const std::string& path, std::string_view bytes) {
  auto file = fs.Create(path);
  MNEMO_CHECK(file.ok() && (*file)->Append(bytes).ok());
}

void MakeFiles(FileSystem& fs, const std::string& directory,
               const v1::CheckpointManifest& manifest) {
  int64_t bytes = 0;
  for (const auto& file : manifest.files()) {
    if (file.bytes() < 0 || file.bytes() > kMostBytes - bytes) return;
    if (file.path().empty() || file.path().find('/') != std::string::npos) continue;
    bytes += file.bytes();
    Write(fs, directory + "/" + file.path(), std::string(file.bytes(), '\0'));
  }
}

}  // namespace
}  // namespace mnemo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mnemo;
  static const google::protobuf::LogSilencer silencer;  // names that are not UTF-8
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)DecodeManifest(bytes, "input");
  v1::CheckpointManifest manifest;
  if (!manifest.ParseFromArray(data, static_cast<int>(size))) return 0;
  DiskModel disk;
  MNEMO_CHECK(disk.MakeDirectories("/c").ok());
  MakeFiles(disk, "/c", manifest);
  Write(disk, "/c/manifest.pb", EncodeManifest(manifest));
  Read(disk, "/c");
  return 0;
}
