#include "src/data/encode_unit.h"

#include <nlohmann/json.hpp>

#include "src/core/status.h"
#include "src/data/utf8.h"

namespace mnemo {
namespace {

constexpr const char* kUtf8Advice = "convert the text, or give --invalid-utf8 replace or skip";

absl::StatusOr<std::string> ParseLine(std::string_view line, const std::string& where,
                                      const std::string& field) {
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(line);
  } catch (const nlohmann::json::exception& error) {
    std::string_view what = error.what();  // "[json.exception.parse_error.101] ..."
    what.remove_prefix(std::min(what.size(), what.find("] ") + 2));
    return InvalidArgument("{}: not JSON: {}", where, what);
  }
  if (!object.is_object()) {
    return InvalidArgument("{}: not a JSON object but {}", where, object.type_name());
  }
  const auto found = object.find(field);
  if (found == object.end()) {
    return InvalidArgument("{}: the object has no field \"{}\": name the right one with --field",
                           where, field);
  }
  if (!found->is_string()) {
    return InvalidArgument("{}: field \"{}\" is not text but {}", where, field, found->type_name());
  }
  return std::move(found->get_ref<std::string&>());
}

// Encodes `text`, which begins at byte `position` of its file; `line` is set for JSONL.
absl::Status EncodePieces(std::string_view text, const TextUnit& unit, const std::string& file,
                          const Tokenizer& tokenizer, InvalidUtf8 policy,
                          std::vector<int32_t>& tokens) {
  const char* begin = text.data();
  while (!text.empty()) {
    const size_t cut = CutPoint(text, kPieceBytes);
    const std::string_view piece = text.substr(0, cut);
    const size_t invalid = tokenizer.needs_utf8() ? FirstInvalidUtf8(piece) : piece.size();
    if (invalid == piece.size()) {
      MNEMO_RETURN_IF_ERROR(tokenizer.Encode(piece, tokens));
    } else if (policy == InvalidUtf8::kError) {
      return InvalidArgument("{}: not UTF-8 at byte {}: {}", file,
                             unit.position + (piece.data() - begin) + static_cast<int64_t>(invalid),
                             kUtf8Advice);
    } else {
      const std::string repaired = RepairUtf8(piece, policy == InvalidUtf8::kReplace);
      MNEMO_RETURN_IF_ERROR(tokenizer.Encode(repaired, tokens));
    }
    text.remove_prefix(cut);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string_view> UnitText(const TextUnit& unit, const std::string& file,
                                          const EncodeOptions& options, std::string& storage) {
  if (!unit.jsonl) return unit.text;
  const std::string where = fmt::format("{}:{}", file, unit.position);
  std::string_view line = unit.text;
  std::string repaired;
  const size_t invalid = FirstInvalidUtf8(line);
  if (invalid < line.size()) {
    if (options.invalid_utf8 == InvalidUtf8::kError) {
      return InvalidArgument("{}: not UTF-8 at byte {} of the line: {}", where, invalid,
                             kUtf8Advice);
    }
    repaired = RepairUtf8(line, options.invalid_utf8 == InvalidUtf8::kReplace);
    line = repaired;
  }
  MNEMO_ASSIGN_OR_RETURN(storage, ParseLine(line, where, options.field));
  return storage;
}

absl::Status EncodeUnit(const TextUnit& unit, const std::string& file, const Tokenizer& tokenizer,
                        const EncodeOptions& options, std::vector<int32_t>& tokens) {
  std::string storage;
  MNEMO_ASSIGN_OR_RETURN(std::string_view text, UnitText(unit, file, options, storage));
  // A JSONL document is cut into units here, so that it gets the tokens of the same text in a file.
  while (!text.empty()) {
    const size_t cut = unit.jsonl ? CutPoint(text, kUnitBytes) : text.size();
    MNEMO_RETURN_IF_ERROR(
        EncodePieces(text.substr(0, cut), unit, file, tokenizer, options.invalid_utf8, tokens));
    text.remove_prefix(cut);
  }
  return absl::OkStatus();
}

}  // namespace mnemo
