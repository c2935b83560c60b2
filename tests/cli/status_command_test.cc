#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "src/job/service/coordinator_server.h"
#include "src/job/service/service_files.h"
#include "tests/ckpt/scratch_directory.h"
#include "tests/cli/run_mnemo.h"
#include "tests/job/service/service_test_util.h"

namespace mnemo {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// A job of three ranks, one of which has not joined; its clock stands still.
class StatusCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(run_);
    for (int rank = 0; rank < 2; ++rank) {
      ASSERT_TRUE(ledger_.Join(JoinOf(rank, terms_)).ok());
      streams_[rank] = *ledger_.OpenReports(rank, [] {});
    }
    v1::WorkerReport report = MetricsOf(0, 50);
    report.mutable_metrics()->set_tokens_per_second(1234);
    ASSERT_TRUE(ledger_.Report(streams_[0], report).ok());
    auto server = CoordinatorServer::Start(ledger_, {"127.0.0.1:0", *ReadOrMakeToken(run_)});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    ASSERT_TRUE(
        WriteCoordinatorFile(FileSystem::Posix(), run_, {server_->address(), "here", 1, 2}).ok());
  }

  const ScratchDirectory scratch_;
  const std::string run_ = scratch_ / "run";
  const JobTerms terms_ = TermsOf(3);
  JobLedger ledger_{terms_, {}, [] { return 5.0; }};
  uint64_t streams_[2] = {};
  std::unique_ptr<CoordinatorServer> server_;
};

TEST_F(StatusCommandTest, PrintsTheJobAndItsRanks) {
  const Result outcome = RunMnemo({"status", run_});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  EXPECT_EQ(outcome.out,
            "run: WAITING [############------------]  step  50/100  loss 0.020  1.2k tok/s\n"
            "checkpoint: none\n"
            "workers: 2 of 3 live\n"
            "  rank 0    LIVE    host0 (process 1000)  step 50, step, heard of 0.0 s ago\n"
            "  rank 1    LIVE    host1 (process 1001)  step 0, start, heard of 0.0 s ago\n"
            "  rank 2    has not joined\n");
  const Result json = RunMnemo({"status", run_, "--json"});
  EXPECT_THAT(json.out, AllOf(HasSubstr("\"state\":\"WAITING\""), HasSubstr("\"step\":\"50\"")));
}

TEST_F(StatusCommandTest, WatchesUntilTheJobEnds) {
  ledger_.Fail("rank 1 is lost");
  const Result outcome = RunMnemo({"status", run_, "--watch"});
  EXPECT_EQ(outcome.code, kExitError);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("FAILED [####"), HasSubstr("rank 1 is lost")));
}

TEST_F(StatusCommandTest, StopsAndSaysWhyItCannotSave) {
  EXPECT_THAT(RunMnemo({"save", run_}).err, HasSubstr("the job is WAITING"));
  const Result outcome = RunMnemo({"stop", run_, "--without-checkpoint"});
  EXPECT_EQ(outcome.out, "asked to stop; it will end after step 51\n") << outcome.err;
  EXPECT_TRUE(ledger_.TakeCommand(streams_[0])->stop().without_checkpoint());
}

TEST_F(StatusCommandTest, FallsBackOnTheRunDirectory) {
  server_.reset();
  std::ofstream(run_ + "/metrics.jsonl") << "{\"step\":7,\"loss\":2.5}\n";
  Result outcome = RunMnemo({"status", run_});
  EXPECT_EQ(outcome.code, kExitError);
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("no coordinator answers at 127.0.0.1:"),
                                 HasSubstr("its metrics end at step 7, loss 2.500")));
  std::filesystem::remove(CoordinatorFilePath(run_));
  outcome = RunMnemo({"status", run_});
  EXPECT_THAT(outcome.err, HasSubstr("no coordinator serves " + run_));
}

}  // namespace
}  // namespace mnemo
