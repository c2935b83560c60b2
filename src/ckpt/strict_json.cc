#include "src/ckpt/strict_json.h"

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "src/core/status.h"

namespace mnemo {

using nlohmann::json;

// Names given twice and nesting are found while parsing: afterwards they are gone, or too late.
absl::StatusOr<json> ParseJsonStrictly(std::string_view text, std::string_view what,
                                       int max_depth) {
  std::vector<std::set<std::string>> keys;
  std::optional<std::string> twice;
  bool deep = false;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    deep = deep || depth > max_depth;
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second &&
        !twice) {
      twice = value.get<std::string>();
    }
    return !deep;
  };
  json parsed = json::parse(text, watch, /*allow_exceptions=*/false);
  if (deep) return DataLoss("{} is nested too deeply", what);
  // The parser takes a zero byte for the end.
  if (parsed.is_discarded() || text.find('\0') != text.npos)
    return DataLoss("{} is not valid JSON", what);
  if (!parsed.is_object()) return DataLoss("{} is not a JSON object", what);
  if (twice) return DataLoss("{} names \"{}\" twice", what, *twice);
  return parsed;
}

std::string QuoteJson(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace mnemo
