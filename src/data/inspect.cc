#include "src/data/inspect.h"

#include <filesystem>

#include "src/core/file_system.h"
#include "src/core/status.h"
#include "src/data/shard_reader.h"

namespace mnemo {
namespace {

ShardFacts Inspect(const std::string& path, bool verify) {
  ShardFacts facts;
  facts.path = path;
  const absl::StatusOr<int64_t> size = FileSystem::Posix().FileSize(path);
  facts.status = size.status();
  if (!size.ok()) return facts;
  facts.file_bytes = *size;
  absl::StatusOr<std::unique_ptr<ShardReader>> shard = ShardReader::Open(path);
  facts.status = shard.status();
  if (!shard.ok()) return facts;
  facts.header = (*shard)->header();
  if (verify) facts.status = (*shard)->Verify();
  facts.verified = verify && facts.status.ok();
  return facts;
}

}  // namespace

absl::Status InspectShards(const std::vector<std::string>& paths, bool verify,
                           const std::function<void(const ShardFacts&)>& each) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    MNEMO_ASSIGN_OR_RETURN(std::vector<std::string> names, FileSystem::Posix().List(path));
    std::erase_if(names, [](const std::string& name) { return !name.ends_with(".h5"); });
    if (names.empty()) return NotFound("{} holds no shard (*.h5)", path);
    for (const std::string& name : names) files.push_back(path + "/" + name);
  }
  int64_t bad = 0;
  for (const std::string& file : files) {
    const ShardFacts facts = Inspect(file, verify);
    if (!facts.status.ok()) ++bad;
    each(facts);
  }
  if (bad == 0) return absl::OkStatus();
  return DataLoss("{} of {} shards are bad: restore them or prepare the data again", bad,
                  files.size());
}

}  // namespace mnemo
