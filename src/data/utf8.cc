#include "src/data/utf8.h"

#include <cstdint>
#include <cstring>

namespace mnemo {
namespace {

// The length of the valid character at the start of `text`, or 0.
size_t CharacterLength(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const auto tail = [&](size_t i, uint8_t low, uint8_t high) {
    return i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  if (lead < 0xE0) return tail(1, 0x80, 0xBF) ? 2 : 0;
  if (lead < 0xF0) {
    const uint8_t low = lead == 0xE0 ? 0xA0 : 0x80;   // overlong
    const uint8_t high = lead == 0xED ? 0x9F : 0xBF;  // surrogates
    return tail(1, low, high) && tail(2, 0x80, 0xBF) ? 3 : 0;
  }
  const uint8_t low = lead == 0xF0 ? 0x90 : 0x80;   // overlong
  const uint8_t high = lead == 0xF4 ? 0x8F : 0xBF;  // above U+10FFFF
  return tail(1, low, high) && tail(2, 0x80, 0xBF) && tail(3, 0x80, 0xBF) ? 4 : 0;
}

}  // namespace

size_t FirstInvalidUtf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t word;  // eight ASCII bytes at a time: most text is mostly that
    if (text.size() - at >= sizeof(word)) {
      std::memcpy(&word, text.data() + at, sizeof(word));
      if ((word & 0x8080808080808080u) == 0) {
        at += sizeof(word);
        continue;
      }
    }
    const size_t length = CharacterLength(text.substr(at));
    if (length == 0) return at;
    at += length;
  }
  return at;
}

std::string RepairUtf8(std::string_view text, bool replace) {
  std::string repaired;
  repaired.reserve(text.size());
  while (!text.empty()) {
    const size_t valid = FirstInvalidUtf8(text);
    repaired.append(text.substr(0, valid));
    text.remove_prefix(valid);
    if (text.empty()) break;
    size_t bad = 1;
    while (bad < text.size() && CharacterLength(text.substr(bad)) == 0) ++bad;
    if (replace) repaired.append("\xEF\xBF\xBD");
    text.remove_prefix(bad);
  }
  return repaired;
}

size_t CutPoint(std::string_view text, size_t limit) {
  if (text.size() <= limit) return text.size();
  const size_t newline = text.substr(0, limit).rfind('\n');
  if (newline != std::string_view::npos && newline >= limit / 2) return newline + 1;
  // At most three continuation bytes can precede the cut in valid text; in other text any cut will
  // do.
  size_t cut = limit;
  for (int back = 0; back < 3 && (static_cast<uint8_t>(text[cut]) & 0xC0) == 0x80; ++back) --cut;
  return (static_cast<uint8_t>(text[cut]) & 0xC0) == 0x80 ? limit : cut;
}

}  // namespace mnemo
