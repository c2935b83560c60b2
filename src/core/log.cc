#include "src/core/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>
#include <string>

namespace mnemo {
namespace {

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

// Never destroyed, so that destructors of static objects may still log.
struct Logger {
  spdlog::logger logger{"mnemo", std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  std::mutex mutex;  // guards prefix
  std::string prefix;

  Logger() {
    logger.set_pattern("%Y-%m-%d %H:%M:%S.%e %l %v");
    logger.flush_on(spdlog::level::trace);
  }

  static Logger& Get() {
    static Logger* instance = new Logger;
    return *instance;
  }
};

}  // namespace

void SetLogLevel(LogLevel level) { Logger::Get().logger.set_level(ToSpdlog(level)); }

bool LogEnabled(LogLevel level) { return Logger::Get().logger.should_log(ToSpdlog(level)); }

void SetLogPrefix(std::string_view prefix) {
  Logger& logger = Logger::Get();
  std::lock_guard<std::mutex> lock(logger.mutex);
  logger.prefix = prefix.empty() ? "" : fmt::format("[{}] ", prefix);
}

void LogLine(LogLevel level, std::string_view text) {
  Logger& logger = Logger::Get();
  std::string prefix;
  {
    std::lock_guard<std::mutex> lock(logger.mutex);
    prefix = logger.prefix;
  }
  logger.logger.log(ToSpdlog(level), "{}{}", prefix, text);
}

}  // namespace mnemo
