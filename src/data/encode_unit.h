// From a unit of input text to tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "src/data/document_reader.h"
#include "src/data/tokenizer.h"

namespace mnemo {

// What to do with bytes that are not UTF-8 where UTF-8 is needed (SentencePiece, JSONL).
enum class InvalidUtf8 {
  kError,    // stop, naming file and place
  kReplace,  // each run of such bytes becomes U+FFFD
  kSkip,     // such bytes are left out
};

// Documents are encoded in pieces of at most this length, cut by CutPoint(), which bounds memory
// and time. A piece that ends in a newline loses nothing by it, as no token of our own models
// crosses a newline; elsewhere a token is split now and then.
inline constexpr size_t kPieceBytes = size_t{1} << 16;

struct EncodeOptions {
  std::string field = "text";  // of JSONL objects
  InvalidUtf8 invalid_utf8 = InvalidUtf8::kError;
};

// Appends the tokens of `unit`. InvalidArgument messages begin with "FILE:LINE: " (JSONL) or name
// file and byte offset. Thread-safe.
absl::Status EncodeUnit(const TextUnit& unit, const std::string& file, const Tokenizer& tokenizer,
                        const EncodeOptions& options, std::vector<int32_t>& tokens);

// The text of a unit: that of a JSONL line's field, or the unit's own. `storage` may hold it.
absl::StatusOr<std::string_view> UnitText(const TextUnit& unit, const std::string& file,
                                          const EncodeOptions& options, std::string& storage);

}  // namespace mnemo
