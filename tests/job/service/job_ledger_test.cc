#include "src/job/service/job_ledger.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "src/parallel/plan.h"
#include "tests/job/service/service_test_util.h"

namespace mnemo {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int kWorkers = 3;

class JobLedgerTest : public testing::Test {
 protected:
  void JoinAll() {
    for (int rank = 0; rank < kWorkers; ++rank) {
      ASSERT_TRUE(ledger_.Join(JoinOf(rank, terms_)).ok());
      const auto stream = ledger_.OpenReports(rank, [this, rank] { ++wakes_[rank]; });
      ASSERT_TRUE(stream.ok());
      streams_[rank] = *stream;
    }
  }
  absl::Status Send(const v1::WorkerReport& report) {
    return ledger_.Report(streams_[report.rank()], report);
  }
  void HeartbeatsBut(int silent) {
    for (int rank = 0; rank < kWorkers; ++rank) {
      if (rank == silent) continue;
      ASSERT_TRUE(Send(ReportOf(rank, 5, "forward")).ok());
    }
  }

  // Time in which the coordinator looks after its ranks.
  void Pass(double seconds) {
    for (; seconds > 0; seconds -= 1) {
      now_ += std::min(seconds, 1.0);
      ledger_.Tick();
    }
  }

  const JobTerms terms_ = TermsOf(kWorkers);
  double now_ = 1000;
  JobLedger ledger_{terms_, {}, [this] { return now_; }};
  uint64_t streams_[kWorkers] = {};
  int wakes_[kWorkers] = {};
};

TEST_F(JobLedgerTest, TrainsOnceAllHaveJoinedAndFinishesOnceAllHaveEnded) {
  EXPECT_EQ(ledger_.Status().state(), v1::WAITING);
  JoinAll();
  EXPECT_EQ(ledger_.Status().state(), v1::TRAINING);
  EXPECT_EQ(ledger_.Status().workers_live(), kWorkers);
  for (int rank = 0; rank < kWorkers; ++rank) {
    EXPECT_FALSE(ledger_.Ended());
    ASSERT_TRUE(Send(EndOf(rank, 100, "")).ok());
    ledger_.CloseReports(streams_[rank]);
  }
  EXPECT_EQ(ledger_.Status().state(), v1::FINISHED);
  Pass(30);  // who has ended is not missed
  EXPECT_EQ(ledger_.Status().state(), v1::FINISHED);
}

TEST_F(JobLedgerTest, RefusesWhoDoesNotBelong) {
  const auto refusal = [&](auto change) {
    v1::JoinRequest request = JoinOf(1, terms_);
    change(request);
    return std::string(ledger_.Join(request).status().message());
  };
  EXPECT_THAT(refusal([](auto& r) { r.set_world_size(4); }),
              HasSubstr("rank 1 on host1 belongs to a world of 4 ranks, but the plan is for 3"));
  EXPECT_THAT(refusal([](auto& r) { r.set_build("older"); }),
              AllOf(HasSubstr("another build (older)"), HasSubstr(terms_.build)));
  EXPECT_THAT(refusal([](auto& r) { r.set_plan_digest(7); }), HasSubstr("another plan"));
  EXPECT_THAT(refusal([](auto& r) { r.set_rank(3); }), HasSubstr("there are ranks 0 to 2"));
  EXPECT_THAT(refusal([](auto& r) { r.set_rank(-1); }), HasSubstr("there are ranks 0 to 2"));
  EXPECT_EQ(refusal([&](auto& r) { r.set_plan_digest(PlanDigest(terms_.plan)); }), "");
  EXPECT_THAT(refusal([](auto& r) { r.set_process(9); }),
              HasSubstr("rank 1 (host host1, process 1001)"));
  EXPECT_EQ(refusal([](auto&) {}), "");  // the same process comes back
}

TEST_F(JobLedgerTest, NamesASilentWorker) {
  JoinAll();
  ASSERT_TRUE(Send(ReportOf(1, 5, "backward")).ok());
  Pass(9.9);
  HeartbeatsBut(1);
  EXPECT_EQ(ledger_.Status().state(), v1::TRAINING);
  Pass(0.2);
  EXPECT_EQ(ledger_.Status().state(), v1::FAILED);
  EXPECT_THAT(ledger_.Status().error(),
              AllOf(HasSubstr("rank 1 (host host1, process 1001)"), HasSubstr("10.1 s ago"),
                    HasSubstr("at step 5 in backward"), HasSubstr("silent")));
  EXPECT_EQ(ledger_.Workers().workers(1).state(), v1::SILENT);
  EXPECT_EQ(ledger_.Workers().workers(0).state(), v1::LIVE);
}

TEST_F(JobLedgerTest, AWorkerWhoseConnectionBreaksMayComeBack) {
  JoinAll();
  Pass(5);
  HeartbeatsBut(2);
  ledger_.CloseReports(streams_[2]);
  EXPECT_EQ(ledger_.Workers().workers(2).state(), v1::GONE);
  EXPECT_EQ(ledger_.Status().workers_live(), 2);
  EXPECT_FALSE(Send(ReportOf(2, 5, "forward")).ok());
  v1::JoinRequest again = JoinOf(2, terms_);
  again.set_step(6);
  ASSERT_TRUE(ledger_.Join(again).ok());
  streams_[2] = *ledger_.OpenReports(2, [] {});
  Pass(9);
  HeartbeatsBut(-1);
  EXPECT_EQ(ledger_.Status().state(), v1::TRAINING);
  EXPECT_EQ(ledger_.Status().step(), 6);
  ledger_.CloseReports(streams_[0]);
  Pass(10);
  EXPECT_THAT(ledger_.Status().error(), AllOf(HasSubstr("rank 0"), HasSubstr("gone")));
}

TEST_F(JobLedgerTest, NamesThoseThatNeverJoin) {
  ASSERT_TRUE(ledger_.Join(JoinOf(1, terms_)).ok());
  const uint64_t stream = *ledger_.OpenReports(1, [] {});
  for (int second = 0; second < 60; ++second) {
    EXPECT_EQ(ledger_.Status().state(), v1::WAITING);
    ASSERT_TRUE(ledger_.Report(stream, ReportOf(1, 0, "start")).ok());
    Pass(1);
  }
  EXPECT_THAT(
      ledger_.Status().error(),
      AllOf(HasSubstr("2 of 3 ranks have not joined within 60 s: 0, 2; look at their output"),
            HasSubstr("see the run directory"), HasSubstr("--join-seconds")));
}

// SIGSTOP and SIGCONT: nobody was heard of, and nobody is to blame.
TEST_F(JobLedgerTest, APauseOfTheCoordinatorIsNoRanksFault) {
  JoinAll();
  Pass(4);
  now_ += 1000;
  ASSERT_TRUE(Send(ReportOf(0, 5, "forward")).ok());  // heard before the deadlines are looked at
  ledger_.Tick();
  EXPECT_EQ(ledger_.Status().state(), v1::TRAINING);
  Pass(5.9);
  EXPECT_EQ(ledger_.Status().state(), v1::TRAINING);
  HeartbeatsBut(1);
  Pass(0.2);  // of the ten seconds four had passed before
  EXPECT_THAT(ledger_.Status().error(), AllOf(HasSubstr("lost rank 1"), HasSubstr("10.1 s ago")));
}

// Who was heard of after the pause gets no more time than others.
TEST_F(JobLedgerTest, APauseIsForgivenNoLongerThanItLasted) {
  JoinAll();
  now_ += 1000;
  ASSERT_TRUE(Send(ReportOf(0, 5, "forward")).ok());
  ledger_.Tick();
  Pass(9);
  HeartbeatsBut(0);
  Pass(1);
  EXPECT_THAT(ledger_.Status().error(), AllOf(HasSubstr("lost rank 0"), HasSubstr("10.0 s ago")));
}

TEST_F(JobLedgerTest, APauseOfTheCoordinatorLeavesTimeToJoin) {
  Pass(50);
  now_ += 1000;
  Pass(9);
  EXPECT_EQ(ledger_.Status().state(), v1::WAITING);
  Pass(2);
  EXPECT_THAT(ledger_.Status().error(), HasSubstr("have not joined within 60 s"));
}

TEST_F(JobLedgerTest, AnEndWithAnErrorFailsTheJobWithTheFirst) {
  JoinAll();
  ASSERT_TRUE(Send(EndOf(2, 7, "no space")).ok());
  ASSERT_TRUE(Send(EndOf(0, 7, "another")).ok());
  EXPECT_EQ(ledger_.Status().state(), v1::FAILED);
  EXPECT_THAT(ledger_.Status().error(),
              AllOf(HasSubstr("rank 2 (host host2"), HasSubstr("after step 7: no space")));
  EXPECT_THAT(std::string(ledger_.Join(JoinOf(1, terms_)).status().message()),
              HasSubstr("no space"));
}

TEST_F(JobLedgerTest, SavesThroughOneRank) {
  std::vector<absl::StatusOr<v1::SaveCheckpointResponse>> answers;
  const auto done = [&](auto answer) { answers.push_back(std::move(answer)); };
  ledger_.RequestSave(done);
  ASSERT_EQ(answers.size(), 1);  // nobody is there yet
  EXPECT_EQ(answers[0].status().code(), absl::StatusCode::kFailedPrecondition);
  JoinAll();
  ASSERT_TRUE(Send(MetricsOf(0, 10)).ok());
  ledger_.RequestSave(done);
  EXPECT_EQ(ledger_.Status().state(), v1::SAVING);
  EXPECT_EQ(wakes_[0], 1);
  ASSERT_TRUE(ledger_.TakeCommand(streams_[0])->has_save());
  for (uint64_t stream : streams_) EXPECT_FALSE(ledger_.TakeCommand(stream).has_value());
  ASSERT_TRUE(Send(ReportOf(0, 11, "save")).ok());
  ledger_.RequestSave(done);  // step 11 or later, so that of step 10 does not answer it
  ASSERT_TRUE(Send(CheckpointOf(0, 10)).ok());
  ASSERT_EQ(answers.size(), 2);
  EXPECT_EQ(answers[1]->step(), 10);
  EXPECT_EQ(answers[1]->path(), "run/checkpoints/10");
  EXPECT_EQ(ledger_.Status().last_checkpoint_step(), 10);
  EXPECT_TRUE(ledger_.TakeCommand(streams_[0])->has_save());
  // Written behind the steps, one that was begun before the request fails after it: no answer.
  v1::WorkerReport before = CheckpointOf(0, 10);
  before.mutable_checkpoint()->set_error("disk full");
  ASSERT_TRUE(Send(before).ok());
  EXPECT_EQ(answers.size(), 2);
  EXPECT_TRUE(ledger_.TakeCommand(streams_[0])->has_save());
  v1::WorkerReport failed = CheckpointOf(0, 12);
  failed.mutable_checkpoint()->set_error("disk full");
  ASSERT_TRUE(Send(failed).ok());
  ASSERT_EQ(answers.size(), 3);
  EXPECT_THAT(std::string(answers[2].status().message()), HasSubstr("disk full"));
  EXPECT_EQ(ledger_.Status().state(), v1::TRAINING);
  EXPECT_EQ(ledger_.Status().last_checkpoint_step(), 10);
  // The newest was found damaged: the run goes on from an older one.
  ASSERT_TRUE(Send(CheckpointOf(0, 4)).ok());
  EXPECT_EQ(ledger_.Status().last_checkpoint_step(), 4);
}

TEST_F(JobLedgerTest, WhoWaitsForACheckpointHearsOfTheEnd) {
  JoinAll();
  absl::Status answer;
  ledger_.RequestSave([&](const auto& result) { answer = result.status(); });
  ASSERT_TRUE(Send(EndOf(1, 7, "no space")).ok());
  EXPECT_EQ(answer.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(answer.message()), HasSubstr("no space"));
}

TEST_F(JobLedgerTest, StopReachesEveryRankAlsoOneThatComesBack) {
  JoinAll();
  ASSERT_TRUE(Send(MetricsOf(0, 10)).ok());
  ledger_.CloseReports(streams_[1]);
  EXPECT_EQ(ledger_.RequestStop(true).last_step(), 11);
  EXPECT_EQ(ledger_.Status().state(), v1::STOPPING);
  for (int rank : {0, 2}) {
    EXPECT_EQ(wakes_[rank], 1);
    EXPECT_TRUE(ledger_.TakeCommand(streams_[rank])->stop().without_checkpoint());
    EXPECT_FALSE(ledger_.TakeCommand(streams_[rank]).has_value());
  }
  ASSERT_TRUE(ledger_.Join(JoinOf(1, terms_)).ok());
  streams_[1] = *ledger_.OpenReports(1, [] {});
  EXPECT_TRUE(ledger_.TakeCommand(streams_[1])->has_stop());
}

TEST_F(JobLedgerTest, StopBeforeAnyRankJoinsEndsTheJob) {
  ledger_.RequestStop(false);
  EXPECT_EQ(ledger_.Status().state(), v1::FINISHED);
}

TEST_F(JobLedgerTest, ARestartGoesOnFromTheRunDirectory) {
  JobHistory history;
  history.last.set_step(40);
  history.last.set_loss(2.5);
  history.checkpoint_step = 30;
  history.started_unix_millis = 12345;
  JobLedger restarted(terms_, history, [this] { return now_; });
  EXPECT_EQ(restarted.Status().step(), 40);
  EXPECT_EQ(restarted.Status().last().loss(), 2.5);
  EXPECT_EQ(restarted.Status().started_unix_millis(), 12345);
  v1::JoinRequest live = JoinOf(0, terms_);
  live.set_step(44);
  live.set_plan_digest(PlanDigest(terms_.plan));
  EXPECT_EQ(restarted.Join(live)->resume_step(), 30);
  EXPECT_EQ(restarted.Status().step(), 44);
}

// Ranks that begin anew take the steps behind the checkpoint again: a save that is asked for then
// is answered by the next checkpoint, not by that of the step where the last ranks were.
TEST_F(JobLedgerTest, GoingOnFromACheckpointTakesStepsAgain) {
  JobHistory history;
  history.last.set_step(120);
  history.checkpoint_step = 80;
  JobLedger restarted(terms_, history, [this] { return now_; });
  for (int rank = 0; rank < kWorkers; ++rank) {
    ASSERT_TRUE(restarted.Join(JoinOf(rank, terms_)).ok());
    streams_[rank] = restarted.OpenReports(rank, [] {}).value();
  }
  EXPECT_EQ(restarted.Status().step(), 80);
  const auto send = [&](const v1::WorkerReport& report) {
    return restarted.Report(streams_[report.rank()], report);
  };
  ASSERT_TRUE(send(CheckpointOf(0, 40)).ok());  // that of step 80 is damaged
  EXPECT_EQ(restarted.Status().step(), 40);
  ASSERT_TRUE(send(MetricsOf(0, 41)).ok());
  int answers = 0;
  restarted.RequestSave([&](auto) { ++answers; });
  ASSERT_TRUE(send(CheckpointOf(0, 42)).ok());
  EXPECT_EQ(answers, 1);
  EXPECT_EQ(restarted.Status().state(), v1::TRAINING);
}

// Ranks that have told another coordinator that they have ended do not join this one.
TEST_F(JobLedgerTest, ARestartAfterAllWasDoneFinishes) {
  for (const bool written : {true, false}) {
    for (const int64_t step : {100, 99}) {
      JobHistory history;
      history.last.set_step(step);
      history.model_written = written;
      JobLedger restarted(terms_, history, [this] { return now_; });
      ASSERT_TRUE(restarted.Join(JoinOf(1, terms_)).ok());
      const uint64_t stream = *restarted.OpenReports(1, [] {});
      int second = 0;
      for (; second < 70 && !restarted.Ended(); ++second) {
        if (second <= 20) {
          const auto report = second < 20 ? ReportOf(1, step, "end") : EndOf(1, step, "");
          ASSERT_TRUE(restarted.Report(stream, report).ok());
        }
        now_ += 1;
        restarted.Tick();
      }
      EXPECT_GT(second, 20);  // not before the one that is there has ended
      EXPECT_EQ(restarted.Status().state(), written && step == 100 ? v1::FINISHED : v1::FAILED);
    }
  }
}

TEST_F(JobLedgerTest, EstimatesTheTimeLeft) {
  JoinAll();
  ASSERT_TRUE(Send(MetricsOf(0, 10)).ok());
  EXPECT_EQ(ledger_.Status().seconds_left(), 0);
  now_ += 6;
  ASSERT_TRUE(Send(MetricsOf(0, 13)).ok());
  EXPECT_DOUBLE_EQ(ledger_.Status().seconds_left(), 2 * 87);
}

TEST_F(JobLedgerTest, AWatcherThatNeverReadsCostsABoundedQueue) {
  JoinAll();
  int wakes = 0;
  const auto slow = *ledger_.Watch(1, [&] { ++wakes; });
  const auto third = *ledger_.Watch(3, [] {});
  EXPECT_EQ(slow->Next()->status().state(), v1::TRAINING);
  EXPECT_TRUE(third->Next().has_value());
  for (int step = 1; step <= 100; ++step) ASSERT_TRUE(Send(MetricsOf(0, step)).ok());
  EXPECT_EQ(wakes, 101);
  int64_t step = 100 - static_cast<int64_t>(Watcher::kCapacity);
  const int64_t missed = step;
  for (bool first = true; auto update = slow->Next(); first = false) {
    EXPECT_EQ(update->status().last().step(), ++step);
    EXPECT_EQ(update->missed(), first ? missed : 0);
  }
  EXPECT_EQ(step, 100);
  for (int64_t expected = 100 - 3 * (Watcher::kCapacity - 1); auto update = third->Next();) {
    EXPECT_EQ(update->status().last().step(), expected);  // 1, 4, 7, .., 100
    expected += 3;
  }
  EXPECT_FALSE(slow->Drained());
  ledger_.Fail("enough");
  EXPECT_EQ(slow->Next()->status().error(), "enough");
  EXPECT_TRUE(slow->Drained());
}

TEST_F(JobLedgerTest, TheNumberOfWatchersIsBounded) {
  std::vector<std::shared_ptr<Watcher>> watchers;
  for (size_t i = 0; i < JobLedger::kMaxWatchers; ++i) {
    watchers.push_back(*ledger_.Watch(0, [] {}));
  }
  EXPECT_EQ(ledger_.Watch(0, [] {}).status().code(), absl::StatusCode::kResourceExhausted);
  watchers.pop_back();
  EXPECT_TRUE(ledger_.Watch(0, [] {}).ok());
}

}  // namespace
}  // namespace mnemo
