#include "src/job/available_memory.h"

#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

class AvailableMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteText(root_ / "proc/meminfo", "MemTotal: 900 kB\nMemAvailable: 500 kB\nCached: 1 kB\n");
  }
  void WriteGroup(const std::string& path, const std::string& max, const std::string& current) {
    WriteText(root_ / "sys/fs/cgroup" + path + "/memory.max", max + "\n");
    WriteText(root_ / "sys/fs/cgroup" + path + "/memory.current", current + "\n");
    WriteText(root_ / "sys/fs/cgroup" + path + "/memory.stat", "anon 7\ninactive_file 1000\n");
  }
  TestDirectory root_;
};

TEST_F(AvailableMemoryTest, IsTheKernelsWithoutGroups) {
  EXPECT_EQ(AvailableMemory(root_.path()), 500 * 1024);
  EXPECT_EQ(AvailableMemory(root_ / "none"), std::nullopt);
  EXPECT_GT(AvailableMemory().value_or(0), 0);
}

TEST_F(AvailableMemoryTest, IsTheLeastThatAGroupAllows) {
  WriteText(root_ / "proc/self/cgroup", "0::/jobs/one\n");
  WriteGroup("/jobs/one", "max", "50000");
  EXPECT_EQ(AvailableMemory(root_.path()), 500 * 1024);
  WriteGroup("/jobs", "100000", "30000");  // 1000 of these are given up for the asking
  EXPECT_EQ(AvailableMemory(root_.path()), 71000);
  WriteGroup("", "20000", "90000");
  EXPECT_EQ(AvailableMemory(root_.path()), 0);
}

TEST_F(AvailableMemoryTest, KnowsTheOlderGroups) {
  WriteText(root_ / "proc/self/cgroup", "5:cpu:/x\n4:hugetlb,memory:/job\n");
  // In a container the group's own path is not there, only the root.
  WriteText(root_ / "sys/fs/cgroup/memory/memory.limit_in_bytes", "100000\n");
  WriteText(root_ / "sys/fs/cgroup/memory/memory.usage_in_bytes", "40000\n");
  EXPECT_EQ(AvailableMemory(root_.path()), 60000);
}

}  // namespace
}  // namespace mnemo
