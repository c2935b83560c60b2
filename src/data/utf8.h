// UTF-8 as Unicode defines it (no surrogates, no overlong forms, nothing above U+10FFFF).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mnemo {

// The offset of the first byte that starts no valid character, or `text.size()`.
size_t FirstInvalidUtf8(std::string_view text);

// `text` with each maximal run of bytes that belong to no character turned into one U+FFFD
// (`replace`) or left out.
std::string RepairUtf8(std::string_view text, bool replace);

// Where to cut `text` so that the first part is at most `limit` bytes: after the last newline in
// its second half; without one, before the last character that would not fit whole. Returns
// text.size() if it fits. limit >= 8. A pure function of the bytes up to `limit`.
size_t CutPoint(std::string_view text, size_t limit);

}  // namespace mnemo
