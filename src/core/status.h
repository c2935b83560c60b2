// Errors. IO, configuration and set-up return absl::Status or absl::StatusOr; tensor code throws
// TensorError, which carries a Status and is turned back into one at the doors of src/model.
// MNEMO_CHECK is for programmer errors and aborts.
//
// A message says what was wrong, where, and what to do about it.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mnemo {

class TensorError : public std::runtime_error {
 public:
  explicit TensorError(absl::Status status)
      : std::runtime_error(std::string(status.message())), status_(std::move(status)) {}
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

// Formatting constructors for the kinds of error in use.
template <typename... Args>
absl::Status InvalidArgument(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
absl::Status NotFound(fmt::format_string<Args...> format, Args&&... args) {
  return absl::NotFoundError(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
absl::Status DataLoss(fmt::format_string<Args...> format, Args&&... args) {
  return absl::DataLossError(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
absl::Status FailedPrecondition(fmt::format_string<Args...> format, Args&&... args) {
  return absl::FailedPreconditionError(fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
absl::Status Internal(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InternalError(fmt::format(format, std::forward<Args>(args)...));
}

namespace internal {
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& message);
[[noreturn]] void ThrowTensorError(fmt::string_view format, fmt::format_args args);
}  // namespace internal

// Throws TensorError(InvalidArgument) with a formatted message unless `condition` holds. Nothing is
// formatted when it does; so pass what has a formatter (a Shape) as it is, not a string made of it:
// these checks run several times in every op on a tensor.
template <typename... Args>
inline void Require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]] {
    internal::ThrowTensorError(format, fmt::make_format_args(args...));
  }
}

}  // namespace mnemo

#define MNEMO_CHECK(condition, ...)                                  \
  do {                                                               \
    if (!(condition)) {                                              \
      ::mnemo::internal::CheckFailed(__FILE__, __LINE__, #condition, \
                                     ::fmt::format("" __VA_ARGS__)); \
    }                                                                \
  } while (0)

#define MNEMO_RETURN_IF_ERROR(expr)                \
  do {                                             \
    ::absl::Status mnemo_status_ = (expr);         \
    if (!mnemo_status_.ok()) return mnemo_status_; \
  } while (0)

#define MNEMO_CONCAT_INNER_(a, b) a##b
#define MNEMO_CONCAT_(a, b) MNEMO_CONCAT_INNER_(a, b)
#define MNEMO_ASSIGN_OR_RETURN(lhs, expr) \
  MNEMO_ASSIGN_OR_RETURN_(MNEMO_CONCAT_(mnemo_or_, __LINE__), lhs, expr)
#define MNEMO_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                            \
  if (!tmp.ok()) return tmp.status();           \
  lhs = std::move(tmp).value()
