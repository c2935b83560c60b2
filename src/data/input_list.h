// What `data prepare` reads, as a list of files in a fixed order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace mnemo {

struct InputOptions {
  // Files, directories (searched recursively) and "-" for standard input, read in this order.
  std::vector<std::string> paths;
  // Which files of directories: shell patterns, matched with the file's name or, if they contain a
  // slash, with its path below the directory. No `include`: all. Files given by name always count.
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  std::string skip_directory;  // not searched: where the output goes

  bool jsonl = false;          // every input is JSONL, not only *.jsonl and *.ndjson
  std::string field = "text";  // of a JSONL object: the document
  // Plain text: lines equal to this one (without its newline) separate documents. Without it each
  // file is one document.
  std::optional<std::string> delimiter;
  int standard_input = 0;  // the file descriptor behind "-"
};

struct InputFile {
  std::string path;   // "-": standard input
  int64_t size = -1;  // bytes; -1: not known before it has been read
  bool jsonl = false;
};

// Directories are walked in byte order of the names; symbolic links in them are not followed, so
// that nothing is read twice. NotFound names a path that is missing; InvalidArgument if nothing
// matches.
absl::StatusOr<std::vector<InputFile>> ListInputs(const InputOptions& options);

}  // namespace mnemo
