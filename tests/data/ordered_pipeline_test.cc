#include "src/data/ordered_pipeline.h"

#include <atomic>
#include <stdexcept>
#include <system_error>

#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Number {
  int value = 0;
};
using Pipeline = OrderedPipeline<Number>;

// Makes 0, 1, .. `count` - 1.
std::function<std::unique_ptr<Number>()> Count(int count) {
  return [count, next = 0]() mutable {
    return next == count ? nullptr : std::make_unique<Number>(Number{next++});
  };
}

TEST(OrderedPipeline, GivesJobsInTheOrderInWhichTheyWereMade) {
  for (int threads : {1, 4}) {
    Pipeline pipeline(threads, 3, Count(200), [](Number& number) {
      if (number.value % 7 == 0) std::this_thread::yield();
      number.value *= 2;
    });
    for (int i = 0; i < 200; ++i) {
      const auto job = pipeline.Next();
      ASSERT_OK(job);
      ASSERT_EQ((*job)->value, 2 * i);
    }
    for (int i = 0; i < 2; ++i) {
      const auto end = pipeline.Next();
      ASSERT_OK(end);
      EXPECT_EQ(*end, nullptr);
    }
  }
}

TEST(OrderedPipeline, WhatTheWorkThrowsIsAnErrorInThatPlace) {
  Pipeline pipeline(3, 5, Count(20), [](Number& number) {
    if (number.value == 7) throw std::runtime_error("seven");
    if (number.value == 9) throw std::bad_alloc();
  });
  for (int i = 0; i < 20; ++i) {
    const auto job = pipeline.Next();
    if (i == 7) {
      EXPECT_THAT(Failure(job), HasSubstr("a worker thread failed: seven"));
    } else if (i == 9) {
      EXPECT_EQ(job.status().code(), absl::StatusCode::kResourceExhausted);
    } else {
      ASSERT_OK(job);
      EXPECT_EQ((*job)->value, i);
    }
  }
  EXPECT_EQ(*pipeline.Next(), nullptr);
}

TEST(OrderedPipeline, WhatTheMakerThrowsIsTheLastError) {
  Pipeline pipeline(
      2, 4,
      [next = 0]() mutable {
        if (next == 3) throw std::runtime_error("no fourth");
        return std::make_unique<Number>(Number{next++});
      },
      [](Number&) {});
  for (int i = 0; i < 3; ++i) ASSERT_OK(pipeline.Next());
  EXPECT_THAT(Failure(pipeline.Next()), HasSubstr("no fourth"));
  EXPECT_EQ(*pipeline.Next(), nullptr);
}

// As where a process may have no more threads. Those that were started have jobs, or wait for some.
TEST(OrderedPipeline, ThreadsThatCannotBeStartedAreAnError) {
  for (int there = 0; there < 4; ++there) {
    std::atomic<int> started = 0, ended = 0;
    {
      Pipeline pipeline(
          3, 5, Count(1000), [](Number&) {},
          [&](std::function<void()> body) {
            if (started == there) {
              throw std::system_error(
                  std::make_error_code(std::errc::resource_unavailable_try_again));
            }
            ++started;
            return std::thread([&ended, body = std::move(body)] {
              body();
              ++ended;
            });
          });
      EXPECT_EQ(ended, there);
      for (int i = 0; i < 2; ++i) {
        const auto job = pipeline.Next();
        EXPECT_EQ(job.status().code(), absl::StatusCode::kResourceExhausted);
        EXPECT_THAT(Failure(job),
                    AllOf(HasSubstr("cannot start 4 threads: "), HasSubstr("use fewer --threads")));
      }
    }
  }
}

TEST(OrderedPipeline, MayBeDroppedHalfWay) {
  Pipeline pipeline(2, 4, Count(1000), [](Number&) {});
  ASSERT_OK(pipeline.Next());
}

}  // namespace
}  // namespace mnemo
