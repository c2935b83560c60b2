#include "src/core/host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

namespace mnemo {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class HostTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(root_ + "/proc/sys/kernel/random");
    std::filesystem::create_directories(root_ + "/proc/self/ns");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::string IdentityOf(const std::string& boot, const std::string& groups) const {
    std::ofstream(root_ + "/proc/sys/kernel/random/boot_id") << boot << "\n";
    std::filesystem::remove(root_ + "/proc/self/ns/cgroup");
    std::filesystem::create_symlink(groups, root_ + "/proc/self/ns/cgroup");
    return HostIdentity(root_);
  }

  const std::string root_ = testing::TempDir() + "/host_test." + std::to_string(::getpid());
};

TEST_F(HostTest, MachinesAndContainersOfOneNameDiffer) {
  std::set<std::string> seen;
  for (const char* boot : {"0f0e", "1f1e"}) {
    for (const char* groups : {"cgroup:[1]", "cgroup:[2]"}) {
      EXPECT_EQ(IdentityOf(boot, groups), IdentityOf(boot, groups));
      EXPECT_TRUE(seen.insert(IdentityOf(boot, groups)).second) << boot << " " << groups;
    }
  }
}

TEST_F(HostTest, ThisOneHasANameAndABoot) {
  EXPECT_FALSE(HostName().empty());
  EXPECT_THAT(HostIdentity(), StartsWith(HostName() + " "));
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  EXPECT_THAT(HostIdentity(), HasSubstr(boot));
  EXPECT_EQ(HostIdentity("/nowhere"), HostName() + "  ");
}

}  // namespace
}  // namespace mnemo
