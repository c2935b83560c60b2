#include <gtest/gtest.h>

#include <set>

#include "src/parallel/thread_transport.h"
#include "tests/parallel/rank_worlds.h"

namespace mnemo {

void OnWorldOf(int ranks, const RankBody& body) {
  SCOPED_TRACE(fmt::format("{} ranks", ranks));
  ThreadTransportOptions options;
  options.eager_bytes = 64;  // so that most messages take the other way
  options.delays = {std::chrono::microseconds(500), static_cast<uint64_t>(ranks)};
  std::mutex mutex;
  std::set<int> seen;
  EXPECT_OK(RunOnThreads(ranks, options, [&](Transport& transport) {
    EXPECT_EQ(transport.size(), ranks);
    {
      std::lock_guard lock(mutex);
      seen.insert(transport.rank());
    }
    body(transport);
    return absl::OkStatus();
  }));
  EXPECT_EQ(seen.size(), static_cast<size_t>(ranks));
}

void ForEachWorld(const RankBody& body, int smallest) {
  for (int ranks = smallest; ranks <= 5; ++ranks) OnWorldOf(ranks, body);
}

}  // namespace mnemo
