#include "src/core/problem_list.h"

#include <string_view>

#include "absl/strings/str_split.h"

namespace mnemo {
namespace {
constexpr char kSeparator[] = "\n  ";
}  // namespace

void ProblemList::AddAll(const absl::Status& status) {
  if (status.ok()) return;
  std::vector<std::string> lines = absl::StrSplit(status.message(), kSeparator);
  const size_t first = lines.size() > 1 ? 1 : 0;  // without the headline
  problems_.insert(problems_.end(), lines.begin() + first, lines.end());
}

absl::Status ProblemList::ToStatus(const std::string& where) const {
  if (problems_.empty()) return absl::OkStatus();
  if (problems_.size() == 1) return absl::InvalidArgumentError(problems_.front());
  std::string message = fmt::format("{} problems in {}:", problems_.size(), where);
  for (const std::string& problem : problems_) message += kSeparator + problem;
  return absl::InvalidArgumentError(message);
}

}  // namespace mnemo
