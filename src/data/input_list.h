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
  bool hidden = false;         // also names in directories that begin with a dot
  bool binary = false;         // also files in directories that have a NUL byte near their begin
  std::string skip_directory;  // not searched: where the output goes

  bool jsonl = false;          // every input is JSONL, not only *.jsonl and *.ndjson
  std::string field = "text";  // of a JSONL object: the document
  // Plain text: lines equal to this one (without its newline) separate documents. Without it each
  // file is one document.
  std::optional<std::string> delimiter;
  int standard_input = 0;  // the file descriptor behind "-"
};

struct InputFile {
  std::string path;       // "-": standard input
  int64_t size = -1;      // bytes; -1: not known before it has been read
  int64_t modified = -1;  // nanoseconds since 1970; -1: no regular file
  bool jsonl = false;
};

struct InputList {
  std::vector<InputFile> files;
  int64_t hidden = 0;                     // files and directories left out for their names
  int64_t binary = 0;                     // files left out for a NUL byte
  std::vector<std::string> named_binary;  // given by name, so taken, though they have one
};

// Directories are walked in byte order of the names; symbolic links in them are not followed, so
// that nothing is read twice. NotFound names a path that is missing; InvalidArgument if nothing
// matches.
absl::StatusOr<InputList> ListInputs(const InputOptions& options);

}  // namespace mnemo
