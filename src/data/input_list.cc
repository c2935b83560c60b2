#include "src/data/input_list.h"

#include <fnmatch.h>

#include <algorithm>
#include <filesystem>

#include "src/core/status.h"

namespace mnemo {
namespace {

namespace stdfs = std::filesystem;

bool MatchesAny(const std::vector<std::string>& patterns, const stdfs::path& below) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    const bool whole = pattern.find('/') != std::string::npos;
    const std::string name = whole ? below.string() : below.filename().string();
    return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
  });
}

InputFile Describe(const InputOptions& options, const stdfs::path& path) {
  std::error_code error;
  const bool regular = stdfs::is_regular_file(path, error);
  const uintmax_t size = regular ? stdfs::file_size(path, error) : 0;
  const std::string extension = path.extension().string();
  InputFile file;
  file.path = path.string();
  file.size = regular && !error ? static_cast<int64_t>(size) : -1;
  file.jsonl = options.jsonl || extension == ".jsonl" || extension == ".ndjson";
  return file;
}

absl::Status Walk(const InputOptions& options, const stdfs::path& root, const stdfs::path& at,
                  std::vector<InputFile>& files) {
  std::error_code error;
  if (!options.skip_directory.empty() && stdfs::equivalent(at, options.skip_directory, error)) {
    return absl::OkStatus();
  }
  std::vector<stdfs::directory_entry> entries;
  for (stdfs::directory_iterator it(at, error), end; !error && it != end; it.increment(error)) {
    entries.push_back(*it);
  }
  if (error) return NotFound("cannot list the directory {}: {}", at.string(), error.message());
  std::sort(entries.begin(), entries.end(),
            [](const auto& a, const auto& b) { return a.path().native() < b.path().native(); });
  for (const stdfs::directory_entry& entry : entries) {
    const stdfs::file_status status = entry.symlink_status(error);
    if (stdfs::is_directory(status)) {
      MNEMO_RETURN_IF_ERROR(Walk(options, root, entry.path(), files));
    } else if (stdfs::is_regular_file(status)) {
      const stdfs::path below = entry.path().lexically_relative(root);
      const bool in = options.include.empty() || MatchesAny(options.include, below);
      if (in && !MatchesAny(options.exclude, below)) {
        files.push_back(Describe(options, entry.path()));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<InputFile>> ListInputs(const InputOptions& options) {
  if (options.paths.empty()) {
    return absl::InvalidArgumentError("no input: name files, directories, or - for standard input");
  }
  std::vector<InputFile> files;
  bool standard_input = false;
  for (const std::string& path : options.paths) {
    std::error_code error;
    if (path == "-") {
      if (standard_input) return absl::InvalidArgumentError("standard input (-) is given twice");
      standard_input = true;
      files.push_back({"-", -1, options.jsonl});
    } else if (stdfs::is_directory(path, error)) {
      MNEMO_RETURN_IF_ERROR(Walk(options, path, path, files));
    } else if (stdfs::exists(path, error)) {
      files.push_back(Describe(options, path));
    } else {
      return NotFound("input {} does not exist", path);
    }
  }
  if (files.empty()) {
    return InvalidArgument("no file in {} matches: check --include and --exclude",
                           fmt::join(options.paths, ", "));
  }
  return files;
}

}  // namespace mnemo
