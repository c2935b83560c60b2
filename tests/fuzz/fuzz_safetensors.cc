// A safetensors file, and the header alone, whatever its length says.
#include <string>
#include <string_view>

#include "src/ckpt/safetensors.h"
#include "src/ckpt/safetensors_header.h"
#include "src/core/status.h"
#include "tests/ckpt/disk_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mnemo;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (const int64_t data_bytes : {int64_t{0}, int64_t{64}}) {
    (void)ParseSafetensorsHeader(bytes.substr(std::min<size_t>(size, 8)), data_bytes);
  }
  DiskModel disk;
  auto file = disk.Create("/x.safetensors");
  MNEMO_CHECK(file.ok() && (*file)->Append(bytes).ok());
  const auto reader = SafetensorsReader::Open(disk, "/x.safetensors");
  if (!reader.ok()) return 0;
  for (const auto& [name, entry] : reader->entries()) (void)reader->Read(name);
  return 0;
}
