#include "src/job/service/grpc_support.h"

#include <grpc/support/log.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/server_context.h>

#include <string_view>

#include "src/core/log.h"

namespace mnemo {
namespace {

constexpr char kMetadataName[] = "authorization";

bool SameInConstantTime(std::string_view a, std::string_view b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i] ^ b[b.empty() ? 0 : i % b.size()]);
  }
  return difference == 0;
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

absl::Status FromGrpc(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

void QuietGrpc() {
  gpr_set_log_function([](gpr_log_func_args* line) { LogDebug("gRPC: {}", line->message); });
}

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address) {
  QuietGrpc();
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // no waiting times of other channels
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);     // finds a host that was cut off
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1'000);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void AddToken(grpc::ClientContext& context, const std::string& token) {
  context.AddMetadata(kMetadataName, "Bearer " + token);
}

grpc::Status CheckToken(const grpc::ServerContextBase& context, const std::string& token) {
  const auto found = context.client_metadata().find(kMetadataName);
  if (found == context.client_metadata().end()) {
    return {grpc::StatusCode::UNAUTHENTICATED,
            "the run's token is needed: its file `token` in the run directory"};
  }
  const std::string_view given(found->second.data(), found->second.size());
  if (SameInConstantTime(given, "Bearer " + token)) return grpc::Status::OK;
  return {grpc::StatusCode::UNAUTHENTICATED,
          "the token is not this run's: take that of the file `token` in the run directory"};
}

}  // namespace mnemo
