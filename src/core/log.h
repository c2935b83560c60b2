// Log lines to stderr, one format: time, level, text. Thread-safe. Metrics and results do not go
// through here.
#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace mnemo {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines below the level are dropped; the default is kInfo.
void SetLogLevel(LogLevel level);
bool LogEnabled(LogLevel level);

// Put before every line from here on, such as "rank 3"; empty for none.
void SetLogPrefix(std::string_view prefix);

void LogLine(LogLevel level, std::string_view text);

namespace internal {
template <typename... Args>
void FormatLogLine(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  if (LogEnabled(level)) LogLine(level, fmt::format(format, std::forward<Args>(args)...));
}
}  // namespace internal

template <typename... Args>
void LogDebug(fmt::format_string<Args...> format, Args&&... args) {
  internal::FormatLogLine(LogLevel::kDebug, format, std::forward<Args>(args)...);
}
template <typename... Args>
void LogInfo(fmt::format_string<Args...> format, Args&&... args) {
  internal::FormatLogLine(LogLevel::kInfo, format, std::forward<Args>(args)...);
}
template <typename... Args>
void LogWarning(fmt::format_string<Args...> format, Args&&... args) {
  internal::FormatLogLine(LogLevel::kWarning, format, std::forward<Args>(args)...);
}
template <typename... Args>
void LogError(fmt::format_string<Args...> format, Args&&... args) {
  internal::FormatLogLine(LogLevel::kError, format, std::forward<Args>(args)...);
}

}  // namespace mnemo
