// What a run on a GPU needs of the host beside it.
#include "src/job/memory_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace mnemo
