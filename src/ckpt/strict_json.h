// JSON that others may have written, read without a second guess about what is meant.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/status/statusor.h"

namespace mnemo {

// An object in which no name is given twice, nested at most `max_depth` deep: {"a": 1} is 1 deep.
// DataLoss beginning with `what`, as in "the header is not valid JSON", if it is anything else.
absl::StatusOr<nlohmann::json> ParseJsonStrictly(std::string_view text, std::string_view what,
                                                 int max_depth);

// `json` as text for a message, whatever bytes are in it.
std::string QuoteJson(const nlohmann::json& json);

}  // namespace mnemo
