// What ranks and strangers may send to a coordinator, call by call.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "mnemo/v1/job.grpc.pb.h"
#include "src/job/service/coordinator_server.h"
#include "src/job/service/grpc_support.h"
#include "src/job/service/service_files.h"
#include "src/job/service/worker_client.h"
#include "tests/ckpt/scratch_directory.h"
#include "tests/job/service/service_test_util.h"

namespace mnemo {
namespace {

using testing::HasSubstr;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void SetDeadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
}

class WorkerProtocolTest : public testing::Test {
 protected:
  void SetUp() override {
    auto started = CoordinatorServer::Start(ledger_, {"127.0.0.1:0", token_});
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    channel_ = OpenChannel(server_->address());
    stub_ = v1::Worker::NewStub(channel_);
  }
  grpc::Status Join(const std::string* token) {
    grpc::ClientContext context;
    SetDeadline(context);
    if (token != nullptr) AddToken(context, *token);
    v1::JoinResponse response;
    return stub_->Join(&context, JoinOf(0, terms_), &response);
  }
  grpc::Status Report(const std::string* token, const v1::WorkerReport& report) {
    grpc::ClientContext context;
    SetDeadline(context);
    if (token != nullptr) AddToken(context, *token);
    const auto stream = stub_->Report(&context);
    stream->Write(report);
    stream->WritesDone();
    for (v1::WorkerCommand command; stream->Read(&command);) {
    }
    return stream->Finish();
  }
  // The answer's bytes to one request of a method whose classes are not at hand.
  std::string Call(const std::string& method, const std::string& request, bool stream) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    SetDeadline(context);
    grpc::CompletionQueue queue;
    const auto call = stub.PrepareCall(&context, method, &queue);
    const auto done = [&] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    call->StartCall(nullptr);
    EXPECT_TRUE(done());
    const grpc::Slice slice(request);
    call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    EXPECT_TRUE(done());
    call->WritesDone(nullptr);
    EXPECT_TRUE(done());
    grpc::ByteBuffer answer;
    call->Read(&answer, nullptr);
    EXPECT_TRUE(done()) << method << (stream ? " (stream)" : "");
    grpc::Status status;
    call->Finish(&status, nullptr);
    EXPECT_TRUE(done());
    EXPECT_TRUE(status.ok()) << status.error_message();
    grpc::Slice whole;
    return answer.DumpToSingleSlice(&whole).ok()
               ? std::string(reinterpret_cast<const char*>(whole.begin()), whole.size())
               : "no bytes";
  }

  const JobTerms terms_ = TermsOf(1);
  const std::string token_ = std::string(64, '7'), wrong_ = std::string(63, '7') + "8";
  JobLedger ledger_{terms_, {}, Now};
  std::unique_ptr<CoordinatorServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Worker::Stub> stub_;
};

TEST_F(WorkerProtocolTest, JoinAndReportAskForTheToken) {
  EXPECT_EQ(Join(nullptr).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Join(&wrong_).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ledger_.Status().state(), v1::WAITING);
  ASSERT_TRUE(Join(&token_).ok());
  for (const std::string* token : {static_cast<const std::string*>(nullptr), &wrong_}) {
    EXPECT_EQ(Report(token, EndOf(0, 7, "a lie")).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  }
  EXPECT_EQ(ledger_.Status().state(), v1::TRAINING);
  EXPECT_EQ(ledger_.Status().step(), 0);
  const grpc::Status told = Report(&token_, EndOf(0, 7, ""));
  EXPECT_TRUE(told.ok()) << told.error_message();
  EXPECT_EQ(ledger_.Status().state(), v1::FINISHED);
}

// The messages by hand: field 1 of a health answer is the status, of which 1 is SERVING.
TEST_F(WorkerProtocolTest, TheHealthServiceAnswers) {
  for (const std::string service : {"", "mnemo.v1.Job", "mnemo.v1.Worker"}) {
    const std::string request =
        service.empty() ? "" : "\x0a" + std::string(1, static_cast<char>(service.size())) + service;
    EXPECT_EQ(Call("/grpc.health.v1.Health/Check", request, false), "\x08\x01") << service;
  }
}

// Field 7 of a request lists the services.
TEST_F(WorkerProtocolTest, ReflectionNamesTheServices) {
  const std::string names = Call("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                 std::string("\x3a\x01*"), true);
  for (const char* service : {"mnemo.v1.Job", "mnemo.v1.Worker", "grpc.health.v1.Health"}) {
    EXPECT_THAT(names, HasSubstr(service));
  }
}

// Takes reports, and breaks off the first streams that bring an end.
class Forgetful final : public v1::Worker::Service {
 public:
  grpc::Status Join(grpc::ServerContext*, const v1::JoinRequest*,
                    v1::JoinResponse* response) override {
    response->set_heartbeat_seconds(1);
    return grpc::Status::OK;
  }
  grpc::Status Report(
      grpc::ServerContext*,
      grpc::ServerReaderWriter<v1::WorkerCommand, v1::WorkerReport>* stream) override {
    bool end = false;
    for (v1::WorkerReport report; stream->Read(&report);) end = end || report.has_end();
    return end && ++ends < 3 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "dying")
                             : grpc::Status::OK;
  }
  std::atomic<int> ends = 0;
};

// The coordinator that heard of the end died before it could say so: the next one is told again.
TEST(WorkerClientTest, AnEndThatIsNotConfirmedIsToldAgain) {
  const ScratchDirectory scratch;
  const std::string run = scratch / "run";
  std::filesystem::create_directories(run);
  ASSERT_TRUE(ReadOrMakeToken(run).ok());
  Forgetful service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  ASSERT_TRUE(WriteCoordinatorFile(FileSystem::Posix(), run,
                                   {"127.0.0.1:" + std::to_string(port), "here", 1, 2})
                  .ok());
  WorkerOptions options;
  options.run_directory = run;
  options.self = JoinOf(0, TermsOf(1));
  auto worker = WorkerClient::Join(options);
  ASSERT_TRUE(worker.ok()) << worker.status();
  EXPECT_TRUE((*worker)->End(absl::OkStatus(), 10));
  EXPECT_EQ(service.ends, 3);
  EXPECT_EQ((*worker)->joins(), 3);
  worker->reset();
}

}  // namespace
}  // namespace mnemo
