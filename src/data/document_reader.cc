#include "src/data/document_reader.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "src/core/status.h"
#include "src/data/utf8.h"

namespace mnemo {

DocumentReader::DocumentReader(std::vector<InputFile> files, const InputOptions& options)
    : files_(std::move(files)),
      delimiter_(options.delimiter),
      standard_input_(options.standard_input) {}

DocumentReader::~DocumentReader() {
  if (descriptor_ >= 0 && descriptor_ != standard_input_) ::close(descriptor_);
}

absl::Status DocumentReader::Open() {
  const std::string& path = files_[file_].path;
  descriptor_ = path == "-" ? standard_input_ : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) return NotFound("cannot open {}: {}", path, std::strerror(errno));
  end_of_file_ = false;
  position_ = 0;
  in_document_ = false;
  at_line_start_ = true;
  return absl::OkStatus();
}

absl::Status DocumentReader::Fill(size_t bytes) {
  while (!end_of_file_ && buffer_.size() - taken_ < bytes) {
    buffer_.erase(0, taken_);
    taken_ = 0;
    const size_t held = buffer_.size();
    const size_t want = std::max(bytes, held + kUnitBytes / 4) - held;
    buffer_.resize(held + want);
    const ssize_t got = ::read(descriptor_, buffer_.data() + held, want);
    buffer_.resize(held + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::UnavailableError(
          fmt::format("cannot read {}: {}", files_[file_].path, std::strerror(errno)));
    }
    end_of_file_ = got == 0;
    bytes_read_ += got;
  }
  return absl::OkStatus();
}

void DocumentReader::Take(size_t bytes) { taken_ += bytes; }

absl::StatusOr<bool> DocumentReader::Next(TextUnit& unit) {
  for (; file_ < files_.size(); ++file_) {
    if (descriptor_ < 0) MNEMO_RETURN_IF_ERROR(Open());
    unit.file = static_cast<int>(file_);
    unit.jsonl = files_[file_].jsonl;
    if (unit.jsonl) {
      MNEMO_ASSIGN_OR_RETURN(bool found, NextLine(unit));
      if (found) return true;
    } else {
      MNEMO_RETURN_IF_ERROR(Fill(kUnitBytes + (delimiter_ ? delimiter_->size() : 0) + 2));
      if (NextText(unit)) return true;
    }
    if (descriptor_ != standard_input_) ::close(descriptor_);
    descriptor_ = -1;
  }
  return false;
}

// Blank lines are passed over, but counted.
absl::StatusOr<bool> DocumentReader::NextLine(TextUnit& unit) {
  size_t searched = 0;
  while (true) {
    const size_t newline = unread().find('\n', searched);
    if (newline == std::string_view::npos && !end_of_file_) {
      searched = unread().size();
      if (searched > kLongestLineBytes) {
        return InvalidArgument("{}:{}: this line is longer than {} bytes: is it JSONL?",
                               files_[file_].path, position_ + 1, kLongestLineBytes);
      }
      MNEMO_RETURN_IF_ERROR(Fill(std::max(kUnitBytes, 2 * searched)));
      continue;
    }
    const std::string_view line = unread().substr(0, newline);
    if (line.empty() && newline == std::string_view::npos) return false;
    ++position_;
    searched = 0;
    const bool blank = line.find_first_not_of(" \t\r") == std::string_view::npos;
    if (!blank) {
      unit.text.assign(line);
      unit.first = unit.last = true;
      unit.position = position_;
    }
    Take(std::min(line.size() + 1, unread().size()));
    if (!blank) return true;
  }
}

// The offset in unread() of the first line that is the delimiter, or `limit` if there is none
// before it.
size_t DocumentReader::FindDelimiter(size_t limit) const {
  const std::string_view text = unread();
  size_t line = at_line_start_ ? 0 : text.find('\n') + 1;  // npos + 1 is 0
  if (line == 0 && !at_line_start_) return limit;
  while (line < limit) {
    const size_t end = line + delimiter_->size();
    if (text.substr(line).starts_with(*delimiter_) && (end == text.size() || text[end] == '\n')) {
      return line;
    }
    line = text.find('\n', line);
    if (line == std::string_view::npos) return limit;
    ++line;
  }
  return limit;
}

bool DocumentReader::NextText(TextUnit& unit) {
  const std::string_view text = unread();
  if (text.empty()) return false;
  const size_t cut = CutPoint(text, kUnitBytes);
  const size_t end = delimiter_ ? FindDelimiter(cut) : cut;
  const bool delimited = end < cut;
  unit.text.assign(text.substr(0, end));
  unit.first = !in_document_;
  unit.position = position_;
  const size_t used = delimited ? std::min(end + delimiter_->size() + 1, text.size()) : end;
  at_line_start_ = text[used - 1] == '\n';
  unit.last = delimited || (end_of_file_ && used == text.size());
  in_document_ = !unit.last;
  position_ += static_cast<int64_t>(used);
  Take(used);
  return true;
}

}  // namespace mnemo
