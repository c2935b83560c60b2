// A rank that joins a coordinator checks its plan before it trains.
#include <gmock/gmock.h>

#include <chrono>
#include <filesystem>

#include "src/job/service/coordinator_server.h"
#include "src/job/service/service_files.h"
#include "src/job/worker/worker_run.h"
#include "src/model/plan_inputs.h"
#include "tests/data/data_test_util.h"
#include "tests/job/job_test_util.h"
#include "tests/job/service/service_test_util.h"

namespace mnemo {
namespace {

using testing::AllOf;
using testing::HasSubstr;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class JoinTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_FALSE(StartedByMpi());
    std::filesystem::create_directories(directory_ / "data");
    std::filesystem::create_directories(run_);
    WriteShard(directory_ / "data/train-00000.h5", RandomDocuments(4, 60, 256, 1), TestTokenizer());
    v1::RunConfig written = TinyRun();
    written.mutable_train()->set_steps(2);
    written.mutable_data()->add_shards(directory_ / "data");
    terms_.config = Effective(written, static_cast<int>(TestTokenizer().vocabulary));
    const auto plan = PlanRun(terms_.config);
    ASSERT_OK(plan);
    terms_.plan = *plan;
  }
  // As the coordinator of `terms_` has it.
  absl::StatusOr<TrainingRunResult> JoinAndTrain() const {
    JobLedger ledger(terms_, {}, Now);
    const auto server = CoordinatorServer::Start(ledger, {"127.0.0.1:0", *ReadOrMakeToken(run_)});
    MNEMO_RETURN_IF_ERROR(server.status());
    MNEMO_RETURN_IF_ERROR(
        WriteCoordinatorFile(FileSystem::Posix(), run_, {(*server)->address(), "here", 1, 2}));
    WorkerRunOptions options;
    options.run.run_directory = run_;
    options.run.writer = terms_.build;
    options.run.measure_machine = false;
    options.join = true;
    return RunWorker(std::move(options));
  }

  const TestDirectory directory_;
  const std::string run_ = directory_ / "run";
  JobTerms terms_ = TermsOf(1);
};

TEST_F(JoinTest, TrainsWhatTheCoordinatorPlanned) {
  const auto result = JoinAndTrain();
  ASSERT_OK(result);
  EXPECT_EQ(result->steps, 2);
  EXPECT_TRUE(std::filesystem::exists(run_ + "/model/model.safetensors"));
}

TEST_F(JoinTest, RefusesAPlanThatItWouldNotMake) {
  terms_.plan.mutable_step()->set_slice(terms_.plan.step().slice() * 2);
  EXPECT_THAT(Failure(JoinAndTrain()), AllOf(HasSubstr("the coordinator plans otherwise"),
                                             HasSubstr("install the same build on every host")));
  EXPECT_FALSE(std::filesystem::exists(run_ + "/metrics.jsonl"));
}

}  // namespace
}  // namespace mnemo
