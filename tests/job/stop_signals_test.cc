#include "src/job/stop_signals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mnemo {
namespace {

using ::testing::HasSubstr;

TEST(StopSignalsTest, TheFirstIsAnsweredAtOnce) {
  const StopSignals signals;
  EXPECT_EQ(StopSignals::Received(), nullptr);
  ::testing::internal::CaptureStderr();
  ::raise(SIGINT);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("stopping after this step; once more aborts"));
  EXPECT_STREQ(StopSignals::Received(), "SIGINT");
}

TEST(StopSignalsTest, WhatMpirunPassesOnStopsToo) {
  {
    const StopSignals signals({.quiet = true});
    ::raise(SIGUSR2);
    EXPECT_STREQ(StopSignals::Received(), "SIGUSR2");
  }
  EXPECT_EXIT(::raise(SIGUSR2), ::testing::KilledBySignal(SIGUSR2), "");
}

TEST(StopSignalsDeathTest, TheSecondEndsTheProcess) {
  const auto twice = [](int first, int second) {
    const StopSignals signals;
    ::raise(first);
    ::raise(second);
  };
  EXPECT_EXIT(twice(SIGINT, SIGINT), ::testing::KilledBySignal(SIGINT), "once more aborts");
  EXPECT_EXIT(twice(SIGINT, SIGTERM), ::testing::KilledBySignal(SIGTERM), "once more aborts");
}

}  // namespace
}  // namespace mnemo
