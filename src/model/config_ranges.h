// The allowed range of every number in a run configuration, as a table.
#pragma once

#include <set>
#include <span>
#include <string>

#include "mnemo/v1/config.pb.h"
#include "src/core/problem_list.h"

namespace mnemo {

struct FieldRange {
  const char* path;         // "model.width"
  double minimum, maximum;  // inclusive
  bool zero_is_default;     // 0 is allowed as well: take the default, or off
  const char* advice;       // what the field is and what to do, a short phrase
};

// One entry for every integer and floating-point field, but for those in UnconstrainedFields().
std::span<const FieldRange> FieldRanges();

// Paths of fields of which every value is fine: booleans, strings, seeds.
std::span<const char* const> UnconstrainedFields();

// Reports every field that is present and out of its range, and every enum field whose number has
// no name; `bad` gains their paths.
void CheckRanges(const v1::RunConfig& config, ProblemList& problems, std::set<std::string>& bad);

}  // namespace mnemo
