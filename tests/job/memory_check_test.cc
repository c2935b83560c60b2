// What a run on a GPU needs of its memory and of the host beside it.
#include "src/job/memory_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/model/plan_inputs.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(HostMemoryTest, HasToHoldTheCopiesOfAllRanksHere) {
  v1::RunConfig config = TinyRun();
  config.mutable_execution()->set_device(v1::CUDA);
  v1::Plan plan;
  plan.mutable_memory()->set_snapshot(3 << 20);
  MemoryCheck check{.config_name = "a.textproto", .ranks_here = 4, .available = {}};
  check.host_available = 12 << 20;
  EXPECT_TRUE(CheckHostMemory(config, plan, check).ok());
  check.host_available = (12 << 20) - 1;
  const absl::Status status = CheckHostMemory(config, plan, check);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("a.textproto: saves"), HasSubstr("need 12.0 MiB"),
                    HasSubstr("train.checkpoint_async = false")));
  // On the CPU the copies are among what the plan adds up.
  config.mutable_execution()->set_device(v1::CPU);
  EXPECT_TRUE(CheckHostMemory(config, plan, check).ok());
}

// How much is missing, and the setting that would do.
TEST(DeviceMemoryTest, AGpuThatIsTooSmallIsOneLineWithTheWayOut) {
  v1::RunConfig config = TinyRun();
  config.mutable_execution()->set_device(v1::CUDA);
  config.mutable_train()->set_rematerialize(v1::KEEP_ALL);
  const v1::RunConfig effective = Effective(config, 264);
  const auto plan = PlanRun(effective);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const int64_t needed = plan->memory().total();
  MemoryCheck check{.config_name = "a.textproto", .available = needed};
  EXPECT_TRUE(CheckDeviceMemory(effective, *plan, check).ok());
  check.available = needed - 1024;
  const absl::Status status = CheckDeviceMemory(effective, *plan, check);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  const std::string message(status.message());
  EXPECT_THAT(message,
              AllOf(HasSubstr("a.textproto: needs "), HasSubstr(" are free on cuda:0: "),
                    HasSubstr("1.0 KiB are missing; train.rematerialize: UNITS would need "),
                    HasSubstr("; or try it all the same with --no-memory-check")));
  EXPECT_EQ(message.find('\n'), message.npos);
  check.can_be_left_out = false;
  EXPECT_THAT(std::string(CheckDeviceMemory(effective, *plan, check).message()),
              testing::Not(HasSubstr("--no-memory-check")));
  check.available = {};
  EXPECT_TRUE(CheckDeviceMemory(effective, *plan, check).ok());
}

}  // namespace
}  // namespace mnemo
