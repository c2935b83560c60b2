#include "src/core/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace mnemo {
namespace {

class ThreadPool : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { SetThreadsForThisThread(GetParam()); }
  void TearDown() override { SetThreadsForThisThread(1); }
};
INSTANTIATE_TEST_SUITE_P(Threads, ThreadPool, testing::Values(1, 2, 3, 8));

TEST_P(ThreadPool, CoversTheRangeOnceInGrains) {
  for (int64_t count : {0, 1, 7, 64, 1000}) {
    for (int64_t grain : {1, 3, 64, 5000}) {
      std::vector<int> hits(count, 0);  // ranges are disjoint: no two threads share an element
      std::atomic<int> bad{0};
      ParallelFor(count, grain, [&](int64_t begin, int64_t end) {
        if (begin % grain != 0 || end <= begin || end - begin > grain) ++bad;
        for (int64_t i = begin; i < end; ++i) ++hits[i];
      });
      EXPECT_EQ(bad.load(), 0);
      EXPECT_EQ(hits, std::vector<int>(count, 1));
    }
  }
}

TEST_P(ThreadPool, ResultsAreVisibleToTheCaller) {
  std::vector<int64_t> values(4096);
  for (int round = 0; round < 300; ++round) {
    ParallelFor(64, 1, [&](int64_t begin, int64_t) {
      for (int64_t i = 0; i < 64; ++i) values[begin * 64 + i] = round + i;
    });
    for (int64_t i = 0; i < 4096; ++i) ASSERT_EQ(values[i], round + i % 64);
  }
}

TEST_P(ThreadPool, NestedCallsRunInline) {
  std::atomic<int64_t> total{0};
  ParallelFor(20, 1, [&](int64_t, int64_t) {
    std::thread::id outer = std::this_thread::get_id();
    ParallelFor(10, 2, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(std::this_thread::get_id(), outer);
      total += end - begin;
    });
  });
  EXPECT_EQ(total.load(), 200);
}

TEST_P(ThreadPool, RethrowsTheFirstFailureAfterTheRest) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> ran{0};
    try {
      ParallelFor(50, 1, [&](int64_t begin, int64_t) {
        ++ran;
        if (begin >= 13) throw std::runtime_error(std::to_string(begin));
      });
      FAIL() << "no exception";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "13");
    }
    EXPECT_EQ(ran.load(), 50);
    int64_t after = 0;  // the pool still works, and so does nesting
    ParallelFor(1, 1, [&](int64_t, int64_t end) { after = end; });
    EXPECT_EQ(after, 1);
  }
}

TEST(ThreadPoolUse, SpreadsOverThreads) {
  SetThreadsForThisThread(2);
  std::atomic<int> arrived{0};
  // Ends only if two threads are inside at the same time.
  ParallelFor(2, 1, [&](int64_t, int64_t) {
    ++arrived;
    while (arrived.load() < 2) std::this_thread::yield();
  });
  SetThreadsForThisThread(1);
  EXPECT_EQ(arrived.load(), 2);
}

TEST(ThreadPoolUse, SettingIsPerThread) {
  SetThreadsForThisThread(3);
  int seen = 0;
  std::thread([&] {
    SetThreadsForThisThread(1);
    std::thread::id self = std::this_thread::get_id();
    ParallelFor(100, 1, [&](int64_t, int64_t) { EXPECT_EQ(std::this_thread::get_id(), self); });
    seen = ThreadsForThisThread();
  }).join();
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(ThreadsForThisThread(), 3);
  SetThreadsForThisThread(1);
  int fresh = 0;
  std::thread([&] { fresh = ThreadsForThisThread(); }).join();
  EXPECT_GE(fresh, 1);
}

TEST(ThreadPoolUse, ManyCallersAtOnce) {
  std::vector<int64_t> sums(4);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      SetThreadsForThisThread(1 + caller % 3);
      for (int round = 0; round < 200; ++round) {
        std::atomic<int64_t> sum{0};
        ParallelFor(40, 3, [&](int64_t begin, int64_t end) { sum += end - begin; });
        sums[caller] += sum.load();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sums, std::vector<int64_t>(4, 8000));
}

}  // namespace
}  // namespace mnemo
