#include "src/core/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace mnemo {
namespace {

TEST(Log, LevelsPrefixAndFormat) {
  testing::internal::CaptureStderr();
  LogInfo("value {}", 3);
  LogDebug("hidden");
  SetLogPrefix("rank 2");
  SetLogLevel(LogLevel::kWarning);
  LogInfo("hidden");
  LogWarning("careful");
  LogError("{{}} {}", "{}");
  SetLogPrefix("");
  SetLogLevel(LogLevel::kInfo);
  std::string text = testing::internal::GetCapturedStderr();
  const std::string time = "[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:]{8}\\.[0-9]{3} ";
  EXPECT_THAT(text, testing::MatchesRegex(time + "info value 3\n" + time +
                                          "warning \\[rank 2\\] careful\n" + time +
                                          "error \\[rank 2\\] \\{\\} \\{\\}\n"));
  EXPECT_TRUE(LogEnabled(LogLevel::kInfo));
  EXPECT_FALSE(LogEnabled(LogLevel::kDebug));
}

}  // namespace
}  // namespace mnemo
