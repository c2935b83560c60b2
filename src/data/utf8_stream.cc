#include "src/data/utf8_stream.h"

#include "src/data/utf8.h"

namespace mnemo {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// The length that a character's first byte announces; 1 for bytes that begin none.
size_t AnnouncedLength(unsigned char first) {
  if (first >= 0xF0 && first <= 0xF4) return 4;
  if (first >= 0xE0 && first < 0xF0) return 3;
  if (first >= 0xC2 && first < 0xE0) return 2;
  return 1;
}

// Whether `text`, which is not a whole character, may become one.
bool MayGrow(std::string_view text) {
  if (text.size() >= AnnouncedLength(static_cast<unsigned char>(text[0]))) return false;
  for (const char c : text.substr(1)) {
    if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) return false;
  }
  return true;
}

}  // namespace

std::string Utf8Stream::Add(std::string_view bytes) {
  held_ += bytes;
  std::string text;
  while (!held_.empty()) {
    const size_t valid = FirstInvalidUtf8(held_);
    text += held_.substr(0, valid);
    held_.erase(0, valid);
    if (held_.empty() || MayGrow(held_)) break;
    text += kReplacement;
    held_.erase(0, 1);
  }
  return text;
}

std::string Utf8Stream::Finish() {
  const bool left = !held_.empty();
  held_.clear();
  return left ? std::string(kReplacement) : std::string();
}

}  // namespace mnemo
