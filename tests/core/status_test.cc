#include "src/core/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

namespace mnemo {
namespace {

using testing::HasSubstr;

TEST(Status, KindsAndMessages) {
  EXPECT_EQ(InvalidArgument("a {}", 1), absl::InvalidArgumentError("a 1"));
  EXPECT_EQ(NotFound("b {}", 2), absl::NotFoundError("b 2"));
  EXPECT_EQ(DataLoss("c"), absl::DataLossError("c"));
  EXPECT_EQ(FailedPrecondition("d"), absl::FailedPreconditionError("d"));
  EXPECT_EQ(Internal("{}", "e"), absl::InternalError("e"));
}

TEST(Status, TensorErrorCarriesItsStatus) {
  try {
    Require(true, "not thrown");
    Require(2 > 3, "{} is not above {}", 2, 3);
    FAIL() << "no error";
  } catch (const TensorError& error) {
    EXPECT_STREQ(error.what(), "2 is not above 3");
    EXPECT_EQ(error.status(), absl::InvalidArgumentError("2 is not above 3"));
  }
}

// Counts how often a value is made into text.
struct Written {
  int* times;
};

}  // namespace
}  // namespace mnemo

template <>
struct fmt::formatter<mnemo::Written> : fmt::formatter<int> {
  auto format(const mnemo::Written& x, fmt::format_context& context) const {
    return fmt::formatter<int>::format(++*x.times, context);
  }
};

namespace mnemo {
namespace {

TEST(Status, RequireFormatsOnlyWhatFails) {
  int times = 0;
  Require(true, "{}", Written{&times});
  EXPECT_EQ(times, 0);
  EXPECT_THROW(Require(false, "{}", Written{&times}), TensorError);
  EXPECT_EQ(times, 1);
}

TEST(StatusDeathTest, CheckNamesPlaceConditionAndText) {
  EXPECT_DEATH(MNEMO_CHECK(1 > 2, "one is {}", 1),
               "status_test.cc:[0-9]+: check failed: 1 > 2 one");
  EXPECT_DEATH(MNEMO_CHECK(false), "check failed: false");
  int evaluations = 0;
  MNEMO_CHECK(++evaluations == 1);
  EXPECT_EQ(evaluations, 1);
}

absl::StatusOr<std::unique_ptr<int>> Make(bool fail) {
  if (fail) return NotFound("nothing");
  return std::make_unique<int>(7);
}

absl::Status Use(bool fail, int* steps) {
  MNEMO_ASSIGN_OR_RETURN(std::unique_ptr<int> value, Make(fail));
  *steps += *value;
  MNEMO_RETURN_IF_ERROR(*value == 7 ? absl::OkStatus() : Internal("value"));
  ++*steps;
  MNEMO_RETURN_IF_ERROR(Internal("stop"));
  return absl::OkStatus();
}

TEST(Status, MacrosReturnTheFirstError) {
  int steps = 0;
  EXPECT_EQ(Use(true, &steps), absl::NotFoundError("nothing"));
  EXPECT_EQ(steps, 0);
  EXPECT_EQ(Use(false, &steps), absl::InternalError("stop"));
  EXPECT_EQ(steps, 8);
}

}  // namespace
}  // namespace mnemo
