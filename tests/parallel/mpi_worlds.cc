// Test programs of several processes: every rank runs every test, each in the same order. Started
// by mnemo_mpi_test of tests/CMakeLists.txt.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "src/core/thread_pool.h"
#include "src/parallel/mpi/session.h"
#include "tests/parallel/rank_worlds.h"

namespace mnemo {
namespace {

std::unique_ptr<MpiSession> session;

// How many ranks the test was meant to have: a test of several ranks that runs on one passes too
// easily.
int ExpectedRanks() {
  const char* const ranks = std::getenv("MNEMO_TEST_RANKS");
  return ranks == nullptr ? -1 : std::atoi(ranks);
}

// One rank's report is enough as long as all goes well.
class FailuresOnly : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::cerr << "rank " << session->rank() << ": " << result.file_name() << ":"
              << result.line_number() << ": " << result.message() << std::endl;
  }
};

}  // namespace

void ForEachWorld(const RankBody& body, int smallest) {
  ASSERT_EQ(session->size(), ExpectedRanks());
  ASSERT_GE(session->size(), smallest);
  Transport& transport = session->transport();
  try {
    body(transport);
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
  }
  // Nobody goes on to the next test before all have ended this one.
  if (::testing::Test::HasFailure()) transport.Abort(absl::InternalError("a test failed"));
  EXPECT_OK(MakeWorld(transport, 99)->Barrier());
}

void OnWorldOf(int ranks, const RankBody& body) {
  ASSERT_EQ(ranks, ExpectedRanks());
  ForEachWorld(body, ranks);
}

}  // namespace mnemo

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  mnemo::MpiOptions options;
  options.delays = {std::chrono::microseconds(2000), 1};
  options.part_bytes = 65536;  // so that long messages go in parts
  auto started = mnemo::MpiSession::Start(options);
  if (!started.ok()) {
    std::cerr << started.status() << "\n";
    return 2;
  }
  mnemo::session = std::move(started).value();
  mnemo::SetThreadsForThisThread(1);
  if (mnemo::session->rank() != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new mnemo::FailuresOnly);
  }
  const int failed = RUN_ALL_TESTS();
  if (failed != 0) return failed;
  const absl::Status ended = mnemo::session->Finish();
  if (!ended.ok()) std::cerr << ended << "\n";
  return ended.ok() ? 0 : 1;
}
