#include "src/core/status.h"

#include <cstdio>
#include <cstdlib>

namespace mnemo::internal {

void CheckFailed(const char* file, int line, const char* condition, const std::string& message) {
  fmt::print(stderr, "{}:{}: check failed: {} {}\n", file, line, condition, message);
  std::fflush(stderr);
  std::abort();
}

void ThrowTensorError(fmt::string_view format, fmt::format_args args) {
  throw TensorError(absl::InvalidArgumentError(fmt::vformat(format, args)));
}

}  // namespace mnemo::internal
