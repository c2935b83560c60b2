// The program, run within the test's process.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <vector>

#include "src/cli/command.h"

namespace mnemo {

struct Result {
  int code = 0;
  std::string out, err;
};

// `mnemo WORDS...`, with only the given commands.
inline Result RunMnemo(const std::vector<std::string>& words,
                       std::span<const AddCommand> commands = AllCommands()) {
  std::vector<const char*> line = {"mnemo"};
  for (const std::string& word : words) line.push_back(word.c_str());
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Result result;
  result.code = RunCommandLine(static_cast<int>(line.size()), line.data(), commands);
  result.out = testing::internal::GetCapturedStdout();
  result.err = testing::internal::GetCapturedStderr();
  return result;
}

}  // namespace mnemo
