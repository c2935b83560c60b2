// Inputs as a stream of documents in bounded memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "src/data/input_list.h"

namespace mnemo {

// Documents longer than this come in several units, cut by CutPoint(): the same text is cut the
// same way whatever file it is in.
inline constexpr size_t kUnitBytes = size_t{1} << 20;
inline constexpr size_t kLongestLineBytes = size_t{1} << 30;  // of JSONL

// A part of one document, or one line of JSONL (a document still to be parsed).
struct TextUnit {
  std::string text;
  bool first = true;  // of its document
  bool last = true;
  bool jsonl = false;
  int file = 0;          // index into the list of inputs
  int64_t position = 0;  // plain text: byte offset in the file; JSONL: line number from 1
};

// Not thread-safe, but for bytes_read().
class DocumentReader {
 public:
  DocumentReader(std::vector<InputFile> files, const InputOptions& options);
  ~DocumentReader();

  // False at the end of the inputs. Errors name the file and the cause.
  absl::StatusOr<bool> Next(TextUnit& unit);
  int64_t bytes_read() const { return bytes_read_; }
  const std::vector<InputFile>& files() const { return files_; }

 private:
  absl::Status Open();
  absl::Status Fill(size_t bytes);  // buffer_ holds so many unread bytes, or all that is left
  absl::StatusOr<bool> NextLine(TextUnit& unit);
  bool NextText(TextUnit& unit);
  size_t FindDelimiter(size_t limit) const;
  void Take(size_t bytes);
  std::string_view unread() const { return std::string_view(buffer_).substr(taken_); }

  const std::vector<InputFile> files_;
  const std::optional<std::string> delimiter_;
  const int standard_input_;
  size_t file_ = 0;      // the one being read
  int descriptor_ = -1;  // < 0: file_ is not open yet
  bool end_of_file_ = false;
  std::string buffer_;
  size_t taken_ = 0;           // bytes of buffer_ that were used up
  int64_t position_ = 0;       // of buffer_[taken_] in the file, or lines so far
  bool in_document_ = false;   // the next unit continues a document
  bool at_line_start_ = true;  // of buffer_[taken_]
  std::atomic<int64_t> bytes_read_ = 0;
};

}  // namespace mnemo
