#include "src/job/service/job_client.h"

#include <grpcpp/channel.h>

#include <chrono>

#include "mnemo/v1/job.grpc.pb.h"
#include "src/core/status.h"
#include "src/job/service/grpc_support.h"
#include "src/job/service/service_files.h"

namespace mnemo {
namespace {

constexpr auto kAnswerTime = std::chrono::seconds(10);

}  // namespace

struct JobClient::Parts {
  std::string address, token;
  std::unique_ptr<v1::Job::Stub> stub;

  absl::Status Told(const grpc::Status& status) const {
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE) return FromGrpc(status);
    return absl::UnavailableError(
        fmt::format("no coordinator answers at {}: {}", address, status.error_message()));
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (v1::Job::Stub::*method)(grpc::ClientContext*,
                                                                      const Request&, Response*),
                                const Request& request, bool bounded = true) const {
    grpc::ClientContext context;
    if (bounded) context.set_deadline(std::chrono::system_clock::now() + kAnswerTime);
    if (!token.empty()) AddToken(context, token);
    Response response;
    const grpc::Status status = (stub.get()->*method)(&context, request, &response);
    if (!status.ok()) return Told(status);
    return response;
  }
};

JobClient::JobClient(const std::string& address, const std::string& token)
    : parts_(new Parts{address, token, v1::Job::NewStub(OpenChannel(address))}) {}
JobClient::JobClient(JobClient&&) noexcept = default;
JobClient::~JobClient() = default;

absl::StatusOr<JobClient> JobClient::Open(const std::string& run_directory) {
  MNEMO_ASSIGN_OR_RETURN(const CoordinatorFile file,
                         ReadCoordinatorFile(FileSystem::Posix(), run_directory));
  return JobClient(file.address, ReadToken(run_directory).value_or(""));
}

absl::StatusOr<v1::JobStatus> JobClient::GetStatus() const {
  return parts_->Call(&v1::Job::Stub::GetStatus, v1::GetStatusRequest());
}

absl::StatusOr<v1::ListWorkersResponse> JobClient::ListWorkers() const {
  return parts_->Call(&v1::Job::Stub::ListWorkers, v1::ListWorkersRequest());
}

absl::StatusOr<v1::GetPlanResponse> JobClient::GetPlan() const {
  return parts_->Call(&v1::Job::Stub::GetPlan, v1::GetPlanRequest());
}

absl::StatusOr<v1::StopResponse> JobClient::Stop(bool without_checkpoint) const {
  v1::StopRequest request;
  request.set_without_checkpoint(without_checkpoint);
  return parts_->Call(&v1::Job::Stub::Stop, request);
}

absl::StatusOr<v1::SaveCheckpointResponse> JobClient::SaveCheckpoint() const {
  return parts_->Call(&v1::Job::Stub::SaveCheckpoint, v1::SaveCheckpointRequest(), false);
}

absl::Status JobClient::Watch(int every,
                              const std::function<bool(const v1::JobUpdate&)>& take) const {
  grpc::ClientContext context;
  v1::WatchRequest request;
  request.set_every(every);
  const auto stream = parts_->stub->Watch(&context, request);
  for (v1::JobUpdate update; stream->Read(&update);) {
    if (take(update)) continue;
    context.TryCancel();
    while (stream->Read(&update)) continue;
    stream->Finish();
    return absl::OkStatus();
  }
  return parts_->Told(stream->Finish());
}

}  // namespace mnemo
