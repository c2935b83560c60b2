#include "src/job/agreement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "src/core/status.h"
#include "src/parallel/thread_transport.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Runs `body` on three ranks and returns what it made of each.
template <typename T>
std::vector<T> OnThreeRanks(const std::function<T(Ranks&)>& body) {
  std::vector<T> results(3);
  const absl::Status status = RunOnThreads(3, {}, [&](Transport& transport) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, {3, 1, 1}));
    results[ranks->rank()] = body(*ranks);
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return results;
}

TEST(AgreementTest, AllHaveTheResultsOfAll) {
  const auto all = OnThreeRanks<std::vector<std::string>>(
      [](Ranks& ranks) { return Exchange(ranks, fmt::format("from {}", ranks.rank())).value(); });
  for (const auto& results : all) {
    EXPECT_EQ(results, (std::vector<std::string>{"from 0", "from 1", "from 2"}));
  }
}

// Whatever order the two threads of a rank come in.
TEST(AgreementTest, TheThreadThatSavesAgreesBesideTheOneThatTrains) {
  const ThreadTransportOptions options{.delays = {std::chrono::microseconds(500), 3}};
  const auto agree = [](Ranks& ranks, Communicator& group, const char* about) {
    for (int i = 0; i < 30; ++i) {
      const auto all = Exchange(ranks, group, fmt::format("{} {} of {}", about, i, ranks.rank()));
      ASSERT_TRUE(all.ok()) << all.status();
      for (int rank = 0; rank < 3; ++rank) {
        ASSERT_EQ((*all)[rank], fmt::format("{} {} of {}", about, i, rank));
      }
    }
  };
  const absl::Status status = RunOnThreads(3, options, [&](Transport& transport) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(auto ranks,
                           Ranks::Create(transport, {3, 1, 1}, std::chrono::seconds(5)));
    std::thread saving([&] { agree(*ranks, ranks->saves(), "save"); });
    agree(*ranks, ranks->world(), "step");
    saving.join();
    return ranks->status();
  });
  EXPECT_TRUE(status.ok()) << status;
}

// Though the third still works, the one that is gone is noticed in time.
TEST(AgreementTest, WhoIsNotHeardOfIsNotWaitedFor) {
  std::vector<absl::Status> seen(3);
  const auto begin = std::chrono::steady_clock::now();
  const absl::Status status = RunOnThreads(3, {}, [&](Transport& transport) -> absl::Status {
    MNEMO_ASSIGN_OR_RETURN(auto ranks,
                           Ranks::Create(transport, {3, 1, 1}, std::chrono::seconds(1)));
    const auto work = [&]() -> absl::StatusOr<std::string> {
      while (ranks->rank() == 1 && ranks->status().ok()) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
      return std::string();
    };
    if (ranks->rank() == 2) return absl::OkStatus();
    seen[ranks->rank()] = ExchangeWork(*ranks, ranks->saves(), work).status();
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  for (const int rank : {0, 1}) {
    EXPECT_THAT(std::string(seen[rank].message()),
                HasSubstr("'saves': nothing was heard of rank 2 for 1.0 s"));
  }
}

TEST(AgreementTest, TheFirstErrorIsEverybodysAndOneTellsIt) {
  std::vector<int> tell(3);
  const auto all = OnThreeRanks<absl::Status>([&](Ranks& ranks) {
    const absl::Status mine =
        ranks.rank() == 0 ? absl::OkStatus() : DataLoss("shard {} is damaged", ranks.rank());
    const absl::Status agreed = Agree(ranks, mine);
    tell[ranks.rank()] = ShouldTell(ranks.rank(), ranks.status());
    EXPECT_TRUE(Agree(ranks, absl::OkStatus()).ok()) << "they can still talk";
    return agreed;
  });
  for (const absl::Status& status : all) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), StartsWith("rank 1 on "));
    EXPECT_THAT(std::string(status.message()), HasSubstr(": shard 1 is damaged"));
  }
  EXPECT_EQ(tell, (std::vector<int>{1, 0, 0}));
}

TEST(AgreementTest, ARankThatAbortsTellsIt) {
  std::vector<int> tell(3);
  const auto all = OnThreeRanks<absl::Status>([&](Ranks& ranks) {
    absl::Status status = DataLoss("shard 7 is damaged");
    if (ranks.rank() == 1) {
      ranks.Abort(status);
    } else {
      status = Agree(ranks, absl::OkStatus());
    }
    tell[ranks.rank()] = ShouldTell(ranks.rank(), ranks.status());
    return status;
  });
  EXPECT_THAT(std::string(all[0].message()), HasSubstr("rank 1 failed: shard 7 is damaged"));
  EXPECT_EQ(tell, (std::vector<int>{0, 1, 0}));
}

TEST(AgreementTest, WhatOneRankWishesAllHear) {
  const auto all = OnThreeRanks<std::vector<bool>>([](Ranks& ranks) {
    std::vector<bool> heard;
    for (int step = 1; step <= 3; ++step) {
      StepWishes wishes{.stop = ranks.rank() == 1 && step == 3,
                        .save = ranks.rank() == 0 && step == 2};
      EXPECT_TRUE(AgreeOnWishes(ranks, wishes).ok());
      heard.push_back(wishes.stop);
      heard.push_back(wishes.save);
    }
    return heard;
  });
  for (const auto& heard : all) {
    EXPECT_EQ(heard, (std::vector<bool>{false, false, false, true, true, false}));
  }
}

}  // namespace
}  // namespace mnemo
