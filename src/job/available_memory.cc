#include "src/job/available_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

namespace mnemo {
namespace {

// The number in a line "KEY NUMBER ...".
std::optional<int64_t> NumberAfter(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  int64_t number;
  while (file >> word) {
    if (word == key && file >> number) return number;
    std::getline(file, word);
  }
  return std::nullopt;
}

// Null where the file is missing or says "max".
std::optional<int64_t> NumberIn(const std::string& path) {
  std::ifstream file(path);
  int64_t number;
  if (file >> number) return number;
  return std::nullopt;
}

struct Names {
  const char *mount, *limit, *usage, *cache;
};
constexpr Names kVersion1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                             "memory.usage_in_bytes", "total_inactive_file"};
constexpr Names kVersion2 = {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"};

// What a group and those above it allow. The usage counts file pages that the kernel gives up
// first.
void LowerToGroup(const std::string& root, const Names& names, const std::string& group,
                  std::optional<int64_t>& least) {
  for (std::filesystem::path at = group;; at = at.parent_path()) {
    const std::string place = root + names.mount + at.string() + "/";
    const auto limit = NumberIn(place + names.limit), usage = NumberIn(place + names.usage);
    if (limit && usage) {
      const int64_t cache = NumberAfter(place + "memory.stat", names.cache).value_or(0);
      const int64_t left = std::max<int64_t>(0, *limit - std::max<int64_t>(0, *usage - cache));
      least = std::min(least.value_or(left), left);
    }
    if (!at.has_relative_path()) break;
  }
}

}  // namespace

std::optional<int64_t> AvailableMemory(const std::string& root) {
  std::optional<int64_t> least = NumberAfter(root + "/proc/meminfo", "MemAvailable:");
  if (least) *least *= 1024;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "ID:CONTROLLERS:/GROUP"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const std::string group = line.substr(second + 1);
    if (controllers == ",,") LowerToGroup(root, kVersion2, group, least);
    if (controllers.find(",memory,") != std::string::npos) {
      LowerToGroup(root, kVersion1, group, least);
    }
  }
  return least;
}

}  // namespace mnemo
