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

// mpirun may pass on one of its own after the one that a terminal sent.
TEST(StopSignalsTest, APatientProcessGoesOnAfterTheSecond) {
  const StopSignals signals({.patient = true});
  ::testing::internal::CaptureStderr();
  ::raise(SIGINT);
  ::raise(SIGTERM);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "\nmnemo: stopping after this step\n");
  EXPECT_STRNE(StopSignals::Received(), nullptr);
}

TEST(StopSignalsTest, AQuietOneSaysNothing) {
  const StopSignals signals({.quiet = true});
  ::testing::internal::CaptureStderr();
  ::raise(SIGTERM);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_STREQ(StopSignals::Received(), "SIGTERM");
}

TEST(SaveSignalTest, IsTakenOnce) {
  const SaveSignal signal;
  EXPECT_FALSE(SaveSignal::Take());
  ::raise(SIGUSR1);
  EXPECT_TRUE(SaveSignal::Take());
  EXPECT_FALSE(SaveSignal::Take());
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
