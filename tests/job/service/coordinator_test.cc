// Coordinator, workers and users in one process, over loopback.
#include <gmock/gmock.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

#include "src/job/service/coordinator_server.h"
#include "src/job/service/job_client.h"
#include "src/job/service/service_files.h"
#include "src/job/service/worker_client.h"
#include "src/parallel/plan.h"
#include "tests/ckpt/scratch_directory.h"
#include "tests/job/service/service_test_util.h"

namespace mnemo {
namespace {

using testing::AllOf;
using testing::HasSubstr;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Whether `condition` comes to hold within ten seconds.
bool Soon(const std::function<bool()>& condition) {
  for (const double until = Now() + 10; Now() < until;) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

// A coordinator of a run directory, as `mnemo coordinate` sets it up.
struct Coordinator {
  Coordinator(const std::string& run, const JobTerms& terms, const std::string& listen)
      : ledger(terms, ReadJobHistory(FileSystem::Posix(), run), Now) {
    auto started = CoordinatorServer::Start(ledger, {listen, *ReadOrMakeToken(run)});
    EXPECT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
    EXPECT_TRUE(
        WriteCoordinatorFile(FileSystem::Posix(), run, {server->address(), "here", 1, 2}).ok());
  }
  JobLedger ledger;
  std::unique_ptr<CoordinatorServer> server;
};

class CoordinatorTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(run_);
    terms_.silent_seconds = 3;
    StartCoordinator("127.0.0.1:0");
  }
  void StartCoordinator(const std::string& listen) {
    coordinator_ = std::make_unique<Coordinator>(run_, terms_, listen);
  }
  WorkerOptions OptionsOf(int rank) const {
    WorkerOptions options;
    options.run_directory = run_;
    options.self = JoinOf(rank, terms_);
    options.join_seconds = 5;
    return options;
  }
  std::unique_ptr<WorkerClient> Join(int rank) const {
    auto client = WorkerClient::Join(OptionsOf(rank));
    EXPECT_TRUE(client.ok()) << client.status();
    return client.ok() ? *std::move(client) : nullptr;
  }
  void JoinAll() {
    for (int rank = 0; rank < terms_.workers; ++rank) workers_.push_back(Join(rank));
    ASSERT_TRUE(Soon([&] {
      for (const auto& worker : workers_) {
        if (!worker->connected()) return false;
      }
      return true;
    }));
  }
  JobClient Client() const { return *JobClient::Open(run_); }
  v1::JobStatus Status() const { return coordinator_->ledger.Status(); }

  const ScratchDirectory scratch_;
  const std::string run_ = scratch_ / "run";
  JobTerms terms_ = TermsOf(2);
  std::unique_ptr<Coordinator> coordinator_;
  std::vector<std::unique_ptr<WorkerClient>> workers_;
};

TEST_F(CoordinatorTest, RefusesRanksThatDoNotBelong) {
  WorkerOptions options = OptionsOf(0);
  options.self.set_world_size(3);
  EXPECT_THAT(std::string(WorkerClient::Join(options).status().message()),
              HasSubstr("a world of 3 ranks, but the plan is for 2"));
  options = OptionsOf(0);
  options.self.set_build("older");
  EXPECT_THAT(std::string(WorkerClient::Join(options).status().message()),
              HasSubstr("another build (older)"));
  options = OptionsOf(0);
  options.self.set_plan_digest(1);
  EXPECT_EQ(WorkerClient::Join(options).status().code(), absl::StatusCode::kFailedPrecondition);
  const auto client = Join(0);
  EXPECT_EQ(client->joined().plan().mesh().sp(), 2);
  EXPECT_EQ(client->joined().plan_digest(), PlanDigest(terms_.plan));
  EXPECT_EQ(client->joined().config().train().steps(), 100);
}

TEST_F(CoordinatorTest, AsksForTheToken) {
  JoinAll();
  const std::string address = coordinator_->server->address();
  const std::string token = *ReadToken(run_);
  for (const std::string& wrong : {std::string(), token + "0", std::string(64, 'a')}) {
    const JobClient client(address, wrong);
    EXPECT_TRUE(client.GetStatus().ok());
    EXPECT_EQ(client.Stop(false).status().code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(client.SaveCheckpoint().status().code(), absl::StatusCode::kUnauthenticated);
  }
  EXPECT_EQ(Status().state(), v1::TRAINING);
  std::filesystem::remove(run_ + "/token");
  ASSERT_TRUE(ReadOrMakeToken(run_).ok());  // of another run
  const auto refused = WorkerClient::Join(OptionsOf(0));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnauthenticated);
}

TEST_F(CoordinatorTest, StatusWatchSaveAndStop) {
  JoinAll();
  std::vector<int64_t> seen;
  v1::JobUpdate last;
  absl::Status watched;
  std::thread watch([&] {
    watched = Client().Watch(1, [&](const v1::JobUpdate& update) {
      last = update;
      if (update.status().state() == v1::TRAINING) {
        seen.push_back(update.status().last().step());
      }
      return true;
    });
  });
  ASSERT_TRUE(Soon([&] { return Client().GetStatus()->workers_live() == 2; }));
  for (int64_t step = 1; step <= 3; ++step) {
    v1::StepMetrics metrics;
    metrics.set_step(step);
    workers_[0]->At(step, "forward");
    workers_[0]->Push(metrics);
    ASSERT_TRUE(Soon([&] { return Status().last().step() == step; }));
  }
  absl::StatusOr<v1::SaveCheckpointResponse> saved;
  std::thread save([&] { saved = Client().SaveCheckpoint(); });
  ASSERT_TRUE(Soon([&] { return workers_[0]->TakeCommands().save; }));
  EXPECT_FALSE(workers_[1]->TakeCommands().save);
  workers_[0]->Push(CheckpointOf(0, 4).checkpoint());
  save.join();
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(saved->step(), 4);
  EXPECT_EQ(Client().GetStatus()->last_checkpoint_step(), 4);
  EXPECT_EQ(Client().Stop(false)->last_step(), 4);
  for (const auto& worker : workers_) {
    ASSERT_TRUE(Soon([&] { return worker->TakeCommands().stop; }));
    worker->At(4, "end");
    EXPECT_TRUE(worker->End(absl::OkStatus()));
    EXPECT_EQ(worker->waits(), 0);
    EXPECT_EQ(worker->dropped(), 0);
  }
  watch.join();  // ends with the job
  EXPECT_TRUE(watched.ok()) << watched;
  EXPECT_EQ(last.status().state(), v1::FINISHED);
  EXPECT_EQ(seen.back(), 3);
}

TEST_F(CoordinatorTest, NamesAWorkerThatIsLost) {
  JoinAll();
  workers_[1]->At(7, "backward");
  ASSERT_TRUE(Soon([&] { return coordinator_->ledger.Workers().workers(1).step() == 7; }));
  workers_[1].reset();  // as if it had been killed: no end is reported
  ASSERT_TRUE(Soon([&] {
    coordinator_->ledger.Tick();
    return Status().state() == v1::FAILED;
  }));
  EXPECT_THAT(Status().error(),
              AllOf(HasSubstr("lost rank 1 (host "), HasSubstr("at step 7 in backward")));
}

TEST_F(CoordinatorTest, ARestartedCoordinatorTakesItsWorkersBack) {
  JoinAll();
  for (const bool same_port : {true, false}) {
    const std::string address = coordinator_->server->address();
    coordinator_.reset();
    workers_[0]->At(50, "forward");
    for (int step = 0; step < 1000; ++step) workers_[0]->Push(v1::StepMetrics());  // nobody hears
    StartCoordinator(same_port ? address : "127.0.0.1:0");
    ASSERT_TRUE(Soon([&] { return Status().state() == v1::TRAINING; }));
    EXPECT_EQ(Status().step(), 50);
  }
  for (const auto& worker : workers_) {
    EXPECT_EQ(worker->joins(), 3);
    EXPECT_EQ(worker->waits(), 0);
    EXPECT_TRUE(worker->End(absl::OkStatus()));
  }
  EXPECT_GT(workers_[0]->dropped(), 0);
  EXPECT_EQ(Status().state(), v1::FINISHED);
}

TEST_F(CoordinatorTest, ATrainerDoesNotWaitForACoordinatorThatIsGone) {
  JoinAll();
  coordinator_.reset();
  const double begin = Now();
  for (int64_t step = 1; step <= 10000; ++step) {
    v1::StepMetrics metrics;
    metrics.set_step(step);
    workers_[0]->At(step, "forward");
    workers_[0]->Push(metrics);
    EXPECT_FALSE(workers_[0]->TakeCommands().stop);
  }
  EXPECT_EQ(workers_[0]->waits(), 0);
  EXPECT_FALSE(workers_[0]->End(absl::OkStatus(), 0.1));
  workers_.clear();
  EXPECT_LT(Now() - begin, 5);
}

TEST_F(CoordinatorTest, APortInUseIsOneError) {
  const std::string address = coordinator_->server->address();
  const auto second = CoordinatorServer::Start(coordinator_->ledger, {address, "token"});
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr("cannot listen on " + address), HasSubstr("in use")));
  for (const char* bad : {"", "7000", "here:", "127.0.0.1:70000", "127.0.0.1:x"}) {
    EXPECT_EQ(CoordinatorServer::Start(coordinator_->ledger, {bad, "t"}).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
}

TEST_F(CoordinatorTest, SaysWhereNoCoordinatorIs) {
  const std::string address = coordinator_->server->address();
  coordinator_.reset();
  EXPECT_THAT(std::string(Client().GetStatus().status().message()),
              HasSubstr("no coordinator answers at " + address));
  WorkerOptions options = OptionsOf(0);
  options.join_seconds = 0.3;
  EXPECT_THAT(std::string(WorkerClient::Join(options).status().message()),
              AllOf(HasSubstr("rank 0 has waited"), HasSubstr(address)));
  std::filesystem::remove(CoordinatorFilePath(run_));
  EXPECT_EQ(JobClient::Open(run_).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace mnemo
