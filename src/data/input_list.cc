#include "src/data/input_list.h"

#include <fnmatch.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <string_view>

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
  const std::string extension = path.extension().string();
  InputFile file;
  file.path = path.string();
  struct stat facts;
  if (::stat(file.path.c_str(), &facts) == 0 && S_ISREG(facts.st_mode)) {
    file.size = facts.st_size;
    file.modified = facts.st_mtim.tv_sec * int64_t{1'000'000'000} + facts.st_mtim.tv_nsec;
  }
  file.jsonl = options.jsonl || extension == ".jsonl" || extension == ".ndjson";
  return file;
}

// As other tools tell text from the rest: by the first bytes. Pipes are not touched.
bool IsBinary(const InputFile& file) {
  if (file.size <= 0) return false;
  std::array<char, 8192> bytes;
  std::ifstream stream(file.path, std::ios::binary);
  stream.read(bytes.data(), bytes.size());
  return std::string_view(bytes.data(), static_cast<size_t>(stream.gcount())).find('\0') !=
         std::string_view::npos;
}

absl::Status Walk(const InputOptions& options, const stdfs::path& root, const stdfs::path& at,
                  InputList& list) {
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
    if (!options.hidden && entry.path().filename().native().starts_with('.')) {
      ++list.hidden;
    } else if (stdfs::is_directory(status)) {
      MNEMO_RETURN_IF_ERROR(Walk(options, root, entry.path(), list));
    } else if (stdfs::is_regular_file(status)) {
      const stdfs::path below = entry.path().lexically_relative(root);
      const bool in = options.include.empty() || MatchesAny(options.include, below);
      if (!in || MatchesAny(options.exclude, below)) continue;
      InputFile file = Describe(options, entry.path());
      if (!options.binary && IsBinary(file)) {
        ++list.binary;
      } else {
        list.files.push_back(std::move(file));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status NothingLeft(const InputOptions& options, const InputList& list) {
  std::string skipped;
  if (list.hidden > 0) skipped += fmt::format("; {} hidden skipped: --hidden", list.hidden);
  if (list.binary > 0) skipped += fmt::format("; {} binary skipped: --binary", list.binary);
  return InvalidArgument("no file in {} matches: check --include and --exclude{}",
                         fmt::join(options.paths, ", "), skipped);
}

}  // namespace

absl::StatusOr<InputList> ListInputs(const InputOptions& options) {
  if (options.paths.empty()) {
    return absl::InvalidArgumentError("no input: name files, directories, or - for standard input");
  }
  InputList list;
  bool standard_input = false;
  for (const std::string& path : options.paths) {
    std::error_code error;
    if (path == "-") {
      if (standard_input) return absl::InvalidArgumentError("standard input (-) is given twice");
      standard_input = true;
      list.files.push_back({.path = "-", .jsonl = options.jsonl});
    } else if (stdfs::is_directory(path, error)) {
      MNEMO_RETURN_IF_ERROR(Walk(options, path, path, list));
    } else if (stdfs::exists(path, error)) {
      list.files.push_back(Describe(options, path));
      if (IsBinary(list.files.back())) list.named_binary.push_back(path);
    } else {
      return NotFound("input {} does not exist", path);
    }
  }
  if (list.files.empty()) return NothingLeft(options, list);
  return list;
}

}  // namespace mnemo
