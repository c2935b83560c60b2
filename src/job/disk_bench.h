// Plain files on a disk, with caches cold: what saves and loads of checkpoints are measured
// against.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace mnemo {

// Runs `body` on as many threads at once, with 0, 1, .. of them; the first error by that number.
absl::Status RunAtOnce(int threads, const std::function<absl::Status(int index)>& body);

// Paths of all files under it.
std::vector<std::string> FilesUnder(const std::string& directory);

// Syncs all files under `directory` and lets the kernel forget their pages; of the whole machine's
// files those that are not in use if `machine` (drop_caches: root only). FailedPrecondition where
// pages stay all the same: in a file system in memory, or while another program holds them.
absl::Status DropCaches(const std::string& directory, bool machine);

// Writes every file front to back from its contents, in blocks of 8 MiB, one thread a file, and
// syncs it.
absl::Status WritePlainFiles(std::span<const std::string> paths,
                             std::span<const std::vector<std::string_view>> contents);

// Reads every file front to back, in blocks of 8 MiB, one thread a file.
absl::Status ReadPlainFiles(std::span<const std::string> paths);

// Seconds to read `bytes` in memory once, on one thread, as fast as a loop does it.
double TimeMemoryRead(std::string_view bytes);

}  // namespace mnemo
