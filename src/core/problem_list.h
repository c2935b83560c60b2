// Collects everything that is wrong, so that a user can mend it in one go.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace mnemo {

// Not thread-safe.
class ProblemList {
 public:
  // `message` says where, what was wrong and what to do.
  void Add(std::string message) { problems_.push_back(std::move(message)); }
  template <typename... Args>
  void Add(fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  // Adds the problems of a status made by ToStatus; nothing if it is OK.
  void AddAll(const absl::Status& status);

  bool empty() const { return problems_.empty(); }
  const std::vector<std::string>& problems() const { return problems_; }

  // OK if empty; else InvalidArgument: a single problem as it is, several under the headline
  // "3 problems in WHERE:" with one indented line each.
  absl::Status ToStatus(const std::string& where) const;

 private:
  std::vector<std::string> problems_;
};

}  // namespace mnemo
