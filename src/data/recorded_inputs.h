// The inputs of prepared data then and now.
#pragma once

#include <string>
#include <vector>

#include "src/data/input_list.h"
#include "src/data/prepare_manifest.h"

namespace mnemo {

std::vector<PreparedInput> RecordInputs(const std::vector<InputFile>& files);

// Whether sizes and times say that nothing has changed. Of standard input they never do.
bool SurelyTheSame(const std::vector<PreparedInput>& before, const std::vector<PreparedInput>& now);

// The first file that is gone, changed or new, for people: "a.txt has changed"; empty if none is,
// or if `before` is. One with nothing but another time is named only if there is no other.
std::string FirstDifference(const std::vector<PreparedInput>& before,
                            const std::vector<PreparedInput>& now);

}  // namespace mnemo
