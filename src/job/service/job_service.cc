// mnemo.v1.Job. Built on gRPC's callbacks: a client that watches costs memory, not a thread.
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>

#include "mnemo/v1/job.grpc.pb.h"
#include "src/job/service/grpc_support.h"
#include "src/job/service/job_ledger.h"
#include "src/job/service/stream_call.h"

namespace mnemo {
namespace {

using Context = grpc::CallbackServerContext;

// One client of Watch.
class WatchCall final : public StreamCall<grpc::ServerWriteReactor<v1::JobUpdate>, v1::JobUpdate> {
 public:
  void Start(JobLedger& ledger, int every) {
    Begin();
    auto watcher = ledger.Watch(every, [weak = weak_from_this()] {
      if (const auto call = weak.lock()) call->Pump();
    });
    if (!watcher.ok()) return End(ToGrpc(watcher.status()));
    {
      std::lock_guard lock(mutex());
      watcher_ = *std::move(watcher);
    }
    Pump();
  }
  void OnCancel() override { End(grpc::Status::CANCELLED); }

 private:
  // The ledger may wake a call that has not got its watcher yet.
  std::optional<v1::JobUpdate> Next() override {
    return watcher_ ? watcher_->Next() : std::nullopt;
  }
  bool Drained() override { return watcher_ && watcher_->Drained(); }

  std::shared_ptr<Watcher> watcher_;
};

class SaveCall final : public grpc::ServerUnaryReactor,
                       public std::enable_shared_from_this<SaveCall> {
 public:
  explicit SaveCall(v1::SaveCheckpointResponse* response) : response_(response) {}
  void Start(JobLedger& ledger) {
    self_ = shared_from_this();
    ledger.RequestSave([call = shared_from_this()](auto result) { call->Answer(result); });
  }
  void OnCancel() override { Answer(absl::CancelledError("the client is gone")); }
  void OnDone() override { self_.reset(); }

 private:
  void Answer(const absl::StatusOr<v1::SaveCheckpointResponse>& result) {
    if (answered_.exchange(true)) return;
    if (result.ok()) *response_ = *result;
    Finish(ToGrpc(result.status()));
  }

  v1::SaveCheckpointResponse* const response_;
  std::atomic<bool> answered_ = false;
  std::shared_ptr<SaveCall> self_;
};

class JobService final : public v1::Job::CallbackService {
 public:
  JobService(JobLedger& ledger, const std::string& token) : ledger_(ledger), token_(token) {}

  grpc::ServerUnaryReactor* GetStatus(Context* context, const v1::GetStatusRequest*,
                                      v1::JobStatus* response) override {
    *response = ledger_.Status();
    return Answer(context, grpc::Status::OK);
  }
  grpc::ServerUnaryReactor* ListWorkers(Context* context, const v1::ListWorkersRequest*,
                                        v1::ListWorkersResponse* response) override {
    *response = ledger_.Workers();
    return Answer(context, grpc::Status::OK);
  }
  grpc::ServerUnaryReactor* GetPlan(Context* context, const v1::GetPlanRequest*,
                                    v1::GetPlanResponse* response) override {
    *response = ledger_.Plan();
    return Answer(context, grpc::Status::OK);
  }
  grpc::ServerUnaryReactor* Stop(Context* context, const v1::StopRequest* request,
                                 v1::StopResponse* response) override {
    const grpc::Status allowed = CheckToken(*context, token_);
    if (allowed.ok()) *response = ledger_.RequestStop(request->without_checkpoint());
    return Answer(context, allowed);
  }
  grpc::ServerUnaryReactor* SaveCheckpoint(Context* context, const v1::SaveCheckpointRequest*,
                                           v1::SaveCheckpointResponse* response) override {
    const grpc::Status allowed = CheckToken(*context, token_);
    if (!allowed.ok()) return Answer(context, allowed);
    auto call = std::make_shared<SaveCall>(response);
    call->Start(ledger_);
    return call.get();  // keeps itself until OnDone, which comes after this
  }
  grpc::ServerWriteReactor<v1::JobUpdate>* Watch(Context*,
                                                 const v1::WatchRequest* request) override {
    auto call = std::make_shared<WatchCall>();
    call->Start(ledger_, request->every());
    return call.get();
  }

 private:
  static grpc::ServerUnaryReactor* Answer(Context* context, const grpc::Status& status) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(status);
    return reactor;
  }

  JobLedger& ledger_;
  const std::string token_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeJobService(JobLedger& ledger, const std::string& token) {
  return std::make_unique<JobService>(ledger, token);
}

}  // namespace mnemo
