#include "src/job/service/report_queue.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "tests/job/service/service_test_util.h"

namespace mnemo {
namespace {

TEST(ReportQueueTest, KeepsOrderAndTakesBack) {
  ReportQueue queue(4);
  EXPECT_FALSE(queue.Pop(0).has_value());
  for (int step = 1; step <= 3; ++step) queue.Push(MetricsOf(0, step));
  v1::WorkerReport first = *queue.Pop(0);
  EXPECT_EQ(first.step(), 1);
  queue.Return(first);
  for (int step = 1; step <= 3; ++step) EXPECT_EQ(queue.Pop(0)->step(), step);
  EXPECT_EQ(queue.dropped(), 0);
}

TEST(ReportQueueTest, DropsTheOldestMetricsFirst) {
  ReportQueue queue(3);
  queue.Push(CheckpointOf(0, 1));
  for (int step = 2; step <= 10; ++step) queue.Push(MetricsOf(0, step));
  EXPECT_EQ(queue.dropped(), 7);
  EXPECT_TRUE(queue.Pop(0)->has_checkpoint());
  EXPECT_EQ(queue.Pop(0)->step(), 9);
  EXPECT_EQ(queue.Pop(0)->step(), 10);
  for (int step = 1; step <= 5; ++step) queue.Push(CheckpointOf(0, step));
  EXPECT_EQ(queue.Pop(0)->step(), 3);
}

TEST(ReportQueueTest, CloseEndsWaiting) {
  ReportQueue queue(3);
  std::thread closer([&] { queue.Close(); });
  EXPECT_FALSE(queue.Pop(100).has_value());
  closer.join();
}

// A sender that pops as fast as it can beside a step that pushes as fast as it can. A push that
// meets the sender is put off to the next one, so the pushes go on until all have come.
TEST(ReportQueueTest, NothingIsLostOrReorderedAndNothingWaits) {
  constexpr int64_t kReports = 20000;
  ReportQueue queue(10 * kReports);
  std::atomic<int64_t> last = 0;
  std::thread sender([&] {
    while (last < kReports) {
      if (const auto report = queue.Pop(1)) {
        EXPECT_EQ(report->step(), last + 1);
        last = report->step();
      }
    }
  });
  for (int64_t step = 1; last < kReports; ++step) {
    queue.Push(ReportOf(0, step, "forward"));
    if (step > kReports) ::usleep(1000);
  }
  sender.join();
  EXPECT_EQ(queue.dropped(), 0);
  // Both threads allocate, and the kernel has a lock of its own for that.
  EXPECT_LE(queue.waits(), 2);
}

}  // namespace
}  // namespace mnemo
