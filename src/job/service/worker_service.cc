// mnemo.v1.Worker.
#include <atomic>
#include <memory>
#include <optional>

#include "mnemo/v1/job.grpc.pb.h"
#include "src/job/service/grpc_support.h"
#include "src/job/service/job_ledger.h"
#include "src/job/service/stream_call.h"

namespace mnemo {
namespace {

using Context = grpc::CallbackServerContext;

// The stream of one rank: reports come in one after the other, commands go out beside them.
class ReportCall final
    : public StreamCall<grpc::ServerBidiReactor<v1::WorkerReport, v1::WorkerCommand>,
                        v1::WorkerCommand> {
 public:
  explicit ReportCall(JobLedger& ledger) : ledger_(ledger) {}
  void Start(const grpc::Status& allowed) {
    Begin();
    if (!allowed.ok()) return End(allowed);
    StartRead(&report_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      ledger_.CloseReports(stream_);
      return End(grpc::Status::OK);
    }
    const absl::Status taken = Take();
    if (!taken.ok()) return End(ToGrpc(taken));
    StartRead(&report_);
  }
  void OnDone() override {
    ledger_.CloseReports(stream_);
    StreamCall::OnDone();
  }

 private:
  absl::Status Take() {
    if (stream_ == 0) {
      auto stream = ledger_.OpenReports(report_.rank(), [weak = weak_from_this()] {
        if (const auto call = weak.lock()) call->Pump();
      });
      if (!stream.ok()) return stream.status();
      stream_ = *stream;
      Pump();  // commands that came before the stream had its number
    }
    return ledger_.Report(stream_, report_);
  }
  std::optional<v1::WorkerCommand> Next() override { return ledger_.TakeCommand(stream_); }

  JobLedger& ledger_;
  std::atomic<uint64_t> stream_ = 0;  // 0: no report has come yet
  v1::WorkerReport report_;
};

class WorkerService final : public v1::Worker::CallbackService {
 public:
  WorkerService(JobLedger& ledger, const std::string& token) : ledger_(ledger), token_(token) {}

  grpc::ServerUnaryReactor* Join(Context* context, const v1::JoinRequest* request,
                                 v1::JoinResponse* response) override {
    grpc::Status status = CheckToken(*context, token_);
    if (status.ok()) {
      auto joined = ledger_.Join(*request);
      if (joined.ok()) *response = *std::move(joined);
      status = ToGrpc(joined.status());
    }
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(status);
    return reactor;
  }
  grpc::ServerBidiReactor<v1::WorkerReport, v1::WorkerCommand>* Report(Context* context) override {
    auto call = std::make_shared<ReportCall>(ledger_);
    call->Start(CheckToken(*context, token_));
    return call.get();  // keeps itself until OnDone, which comes after this
  }

 private:
  JobLedger& ledger_;
  const std::string token_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeWorkerService(JobLedger& ledger, const std::string& token) {
  return std::make_unique<WorkerService>(ledger, token);
}

}  // namespace mnemo
