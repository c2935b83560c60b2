// Two hundred clients that watch real training, fifty of which never read: nothing waits for them,
// and nothing that is computed changes.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <vector>

#include "src/job/service/coordinator_server.h"
#include "src/job/service/service_files.h"
#include "src/job/service/worker_client.h"
#include "src/job/training_run.h"
#include "src/parallel/thread_transport.h"
#include "tests/data/data_test_util.h"
#include "tests/job/job_test_util.h"
#include "tests/job/service/service_test_util.h"
#include "tests/job/service/watch_client.h"

namespace mnemo {
namespace {

constexpr int kClients = 200, kNeverReading = 50, kRanks = 2, kSteps = 150;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class WatchTrainingTest : public testing::Test {
 protected:
  WatchTrainingTest() {
    std::filesystem::create_directories(directory_ / "data");
    WriteShard(directory_ / "data/train-00000.h5", RandomDocuments(40, 60, 256, 1),
               TestTokenizer());
    config_ = TinyRun(v1::MAG);
    config_.mutable_train()->set_steps(kSteps);
    config_.mutable_data()->add_shards(directory_ / "data");
    config_.mutable_parallel()->set_sp(kRanks);
  }

  std::string Run(const std::string& name) const { return directory_ / name; }
  // Every rank on a thread; one with a client reports to it.
  absl::Status Train(const std::string& name,
                     const std::vector<std::unique_ptr<WorkerClient>>& clients = {}) const {
    return RunOnThreads(kRanks, {}, [&](Transport& transport) {
      TrainingRunOptions options;
      options.written = config_;
      options.config_name = "tiny.textproto";
      options.run_directory = Run(name);
      options.check_memory = options.measure_machine = false;
      options.transport = &transport;
      if (clients.empty()) return RunTraining(options).status();
      WorkerClient& client = *clients[transport.rank()];
      options.on_phase = [&](int64_t step, const char* phase) { client.At(step, phase); };
      options.on_logged = [&](const v1::StepMetrics& metrics) { client.Push(metrics); };
      options.on_save = [&](const v1::CheckpointReport& report) { client.Push(report); };
      options.wishes = [&] {
        const WorkerCommands asked = client.TakeCommands();
        return StepWishes{.stop = asked.stop, .save = asked.save};
      };
      const absl::Status status = RunTraining(options).status();
      EXPECT_TRUE(client.End(status));
      return status;
    });
  }
  std::vector<std::string> Losses(const std::string& name) const {
    std::istringstream lines(ReadText(Run(name) + "/metrics.jsonl"));
    std::vector<std::string> all;
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      all.push_back(json["loss"].dump() + " " + json["gradient_norm"].dump());
    }
    return all;
  }

  const TestDirectory directory_;
  v1::RunConfig config_;
};

TEST_F(WatchTrainingTest, WatchersDelayAndChangeNothing) {
  ASSERT_OK(Train("alone"));

  const std::string run = Run("watched");
  std::filesystem::create_directories(run);
  JobTerms terms = TermsOf(kRanks);
  terms.config.mutable_train()->set_steps(kSteps);
  JobLedger ledger(terms, {}, Now);
  const auto server = CoordinatorServer::Start(ledger, {"127.0.0.1:0", *ReadOrMakeToken(run)});
  ASSERT_OK(server);
  ASSERT_OK(WriteCoordinatorFile(FileSystem::Posix(), run, {(*server)->address(), "here", 1, 2}));
  std::vector<std::unique_ptr<WorkerClient>> ranks;
  for (int rank = 0; rank < kRanks; ++rank) {
    WorkerOptions options;
    options.run_directory = run;
    options.self = JoinOf(rank, terms);
    auto client = WorkerClient::Join(options);
    ASSERT_OK(client);
    ranks.push_back(*std::move(client));
  }
  std::vector<std::unique_ptr<WatchClient>> watchers;
  for (int i = 0; i < kClients; ++i) {
    watchers.push_back(std::make_unique<WatchClient>((*server)->address()));
  }
  // Those that read take turns, which is slow, but each gets all that is kept for it.
  std::vector<v1::JobStatus> last(kClients);
  std::atomic<int64_t> updates = 0;
  std::thread reader([&] {
    v1::JobUpdate update;
    for (bool any = true; any;) {
      any = false;
      for (int i = kNeverReading; i < kClients; ++i) {
        if (!watchers[i]->stream->Read(&update)) continue;
        any = true;
        ++updates;
        last[i] = update.status();
      }
    }
  });
  EXPECT_OK(Train("watched", ranks));
  reader.join();
  EXPECT_EQ(ledger.Status().state(), v1::FINISHED);
  EXPECT_EQ(ledger.Status().last().step(), kSteps);
  for (const auto& rank : ranks) {
    EXPECT_EQ(rank->waits(), 0);
    EXPECT_EQ(rank->dropped(), 0);
    EXPECT_EQ(rank->joins(), 1);
  }
  for (int i = kNeverReading; i < kClients; ++i) EXPECT_EQ(last[i].state(), v1::FINISHED) << i;
  EXPECT_GT(updates, 2 * (kClients - kNeverReading));
  for (int i = 0; i < kNeverReading; ++i) watchers[i]->context.TryCancel();
  watchers.clear();

  const std::vector<std::string> losses = Losses("alone");
  EXPECT_EQ(losses.size(), static_cast<size_t>(kSteps));
  EXPECT_EQ(Losses("watched"), losses);
  EXPECT_EQ(ReadText(run + "/model/model.safetensors"),
            ReadText(Run("alone") + "/model/model.safetensors"));
}

}  // namespace
}  // namespace mnemo
