// The index of weights that lie in several files: as text, and beside two files that are whole.
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "src/ckpt/model_weights.h"
#include "src/ckpt/safetensors_index.h"
#include "src/core/status.h"
#include "tests/ckpt/disk_model.h"

namespace mnemo {
namespace {

// Tensors a and b in one file, c in another, and c outside of the model's directory as well.
const DiskModel& Prepared() {
  static const DiskModel* const prepared = [] {
    auto* disk = new DiskModel;
    MNEMO_CHECK(disk->MakeDirectories("/m").ok());
    const std::map<std::string, std::vector<std::string>> files = {
        {"/m/1.safetensors", {"a", "b"}}, {"/m/2.safetensors", {"c"}}, {"/2.safetensors", {"c"}}};
    for (const auto& [path, names] : files) {
      std::vector<NamedTensor> tensors;
      for (const std::string& name : names) {
        tensors.push_back({name, Tensor::Zeros({2}, DType::kF32)});
      }
      MNEMO_CHECK(WriteSafetensors(*disk, path, Streamed(tensors), {}).ok());
    }
    return disk;
  }();
  return *prepared;
}

}  // namespace
}  // namespace mnemo

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mnemo;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (const auto index = ParseSafetensorsIndex(bytes); index.ok()) {
    for (const auto& [tensor, file] : index->files) MNEMO_CHECK(file.find('/') == file.npos);
    MNEMO_CHECK(ParseSafetensorsIndex(PrintSafetensorsIndex(*index)).ok());
  }
  const auto disk = Prepared().Copy();
  auto file = disk->Create("/m/model.safetensors.index.json");
  MNEMO_CHECK(file.ok() && (*file)->Append(bytes).ok());
  const auto weights = ModelWeights::Open(*disk, "/m");
  if (!weights.ok()) return 0;
  for (const auto& [name, entry] : weights->entries()) {
    MNEMO_CHECK(weights->ReadBox(name, WholeBox(entry.shape)).ok());
  }
  return 0;
}
