// What other programs measure beside ours: scripts of tests/bench, in Python.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mnemo {

// A script of tests/bench, `name` relative to it: beside the folder of this program, in a source
// tree with its build folder as in a bundle (launch/bundle.sh). NotFound where there is none.
absl::StatusOr<std::string> BenchScript(const std::string& name);

// Runs `python script arguments...`, waits for it, and gives every line of its standard output that
// is a JSON object to `take`; other lines, and its standard error, go to ours. In a bundle it gets
// the library path from before run.sh, as its libraries are not the bundle's. NotFound if `python`
// does not start, Internal if it ends with another code than 0.
absl::Status RunPythonScript(const std::string& python, const std::string& script,
                             const std::vector<std::string>& arguments,
                             const std::function<void(const nlohmann::json&)>& take);

}  // namespace mnemo
