// Two hundred clients that watch, fifty of which never read, beside a rank that trains.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "src/job/service/coordinator_server.h"
#include "src/job/service/service_files.h"
#include "src/job/service/worker_client.h"
#include "tests/ckpt/scratch_directory.h"
#include "tests/job/service/service_test_util.h"
#include "tests/job/service/watch_client.h"

namespace mnemo {
namespace {

constexpr int kClients = 200, kNeverReading = 50;
constexpr int64_t kSteps = 3000;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A line of /proc/self/status: VmRSS in KiB, Threads.
int64_t OfThisProcess(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t value = 0;
    if (word == name + ":" && status >> value) return value;
  }
  return 0;
}

// As long as the line of a model of 48 layers.
v1::StepMetrics LongMetrics(int64_t step) {
  v1::StepMetrics metrics;
  metrics.set_step(step);
  for (int layer = 0; layer < 48; ++layer) {
    v1::LayerMetrics& of = *metrics.add_layers();
    of.set_theta(0.1), of.set_eta(0.2), of.set_alpha(0.3), of.set_state_norm(4.5);
  }
  return metrics;
}

TEST(WatchLoadTest, SlowClientsCostLittleAndDelayNothing) {
  const ScratchDirectory scratch;
  const std::string run = scratch / "run";
  std::filesystem::create_directories(run);
  JobTerms terms = TermsOf(1);
  JobLedger ledger(terms, {}, Now);
  auto server = CoordinatorServer::Start(ledger, {"127.0.0.1:0", *ReadOrMakeToken(run)});
  ASSERT_TRUE(server.ok()) << server.status();
  ASSERT_TRUE(
      WriteCoordinatorFile(FileSystem::Posix(), run, {(*server)->address(), "here", 1, 2}).ok());
  WorkerOptions options;
  options.run_directory = run;
  options.self = JoinOf(0, terms);
  auto worker = WorkerClient::Join(options);
  ASSERT_TRUE(worker.ok()) << worker.status();

  const int64_t threads = OfThisProcess("Threads");
  std::vector<std::unique_ptr<WatchClient>> clients;
  v1::JobUpdate update;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<WatchClient>((*server)->address()));
    if (i >= kNeverReading) {
      ASSERT_TRUE(clients.back()->stream->Read(&update));
    }
  }
  const int64_t before = OfThisProcess("VmRSS");
  int64_t middle = 0;
  for (int64_t step = 1; step <= kSteps; ++step) {
    (*worker)->At(step, "forward");
    (*worker)->Push(LongMetrics(step));
    while (ledger.Status().last().step() + 100 < step) ::usleep(100);
    if (step == kSteps / 2) middle = OfThisProcess("VmRSS");
  }
  while (ledger.Status().last().step() < kSteps) ::usleep(100);
  const int64_t after = OfThisProcess("VmRSS");
  EXPECT_EQ((*worker)->waits(), 0);
  EXPECT_EQ((*worker)->dropped(), 0);
  EXPECT_LT(OfThisProcess("Threads") - threads, kClients / 2);
  if (!kSanitized) {  // a sanitizer keeps what is freed
    EXPECT_LT(after - before, 64 * 1024) << "KiB: buffers of the connections, once";
    EXPECT_LT(after - middle, 4 * 1024) << "KiB: nothing grows with the steps";
  }
  (*worker)->End(absl::OkStatus());

  // Who reads after all gets the newest, and is told what it missed.
  for (int i = kNeverReading; i < kClients; ++i) {
    int64_t updates = 1, missed = 0;
    while (clients[i]->stream->Read(&update)) ++updates, missed += update.missed();
    EXPECT_EQ(update.status().state(), v1::FINISHED);
    EXPECT_EQ(update.status().last().step(), kSteps);
    EXPECT_GT(missed, 0);
    EXPECT_TRUE(clients[i]->stream->Finish().ok());
  }
  for (int i = 0; i < kNeverReading; ++i) clients[i]->context.TryCancel();
  clients.clear();
}

}  // namespace
}  // namespace mnemo
