#include "src/job/service/coordinator_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>

#include "src/core/host.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/service/grpc_support.h"

namespace mnemo {
namespace {

constexpr int kMaxMessageBytes = 1 << 20;
constexpr int kMaxThreads = 32;  // of the services that gRPC brings; ours need none of their own

struct HostPort {
  std::string host;
  int port = 0;
};

absl::StatusOr<HostPort> ParseListen(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  HostPort parsed;
  if (colon != std::string::npos && colon > 0) {
    parsed.host = listen.substr(0, colon);
    const char* end = listen.data() + listen.size();
    const auto [at, error] = std::from_chars(listen.data() + colon + 1, end, parsed.port);
    if (error == std::errc() && at == end && parsed.port >= 0 && parsed.port < 65536) return parsed;
  }
  return InvalidArgument(
      "cannot listen on \"{}\": give HOST:PORT, for instance 127.0.0.1:0 or 0.0.0.0:7000", listen);
}

bool IsLoopback(const std::string& host) {
  return host.starts_with("127.") || host == "localhost" || host == "[::1]";
}

// gRPC does not say why it could not listen; the kernel does, when asked again.
std::string WhyNot(const HostPort& address) {
  std::string host = address.host;
  if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
  addrinfo hints = {}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  const std::string port = fmt::format("{}", address.port);
  const int error = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) return ::gai_strerror(error);
  const int probe = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int one = 1;
  ::setsockopt(probe, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  const bool bound = ::bind(probe, found->ai_addr, found->ai_addrlen) == 0;
  const std::string reason = bound ? "gRPC refuses it" : std::strerror(errno);
  ::close(probe);
  ::freeaddrinfo(found);
  return reason;
}

}  // namespace

// In the order of construction: the server goes first.
struct CoordinatorServer::Parts {
  std::unique_ptr<grpc::Service> job, worker;
  std::unique_ptr<grpc::Server> server;
};

CoordinatorServer::CoordinatorServer(std::unique_ptr<Parts> parts, std::string address)
    : parts_(std::move(parts)), address_(std::move(address)) {}

CoordinatorServer::~CoordinatorServer() {
  parts_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
}

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    JobLedger& ledger, const ServerOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const HostPort listen, ParseListen(options.listen));
  QuietGrpc();
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto parts = std::make_unique<Parts>();
  parts->job = MakeJobService(ledger, options.token);
  parts->worker = MakeWorkerService(ledger, options.token);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(parts->job.get());
  builder.RegisterService(parts->worker.get());
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetResourceQuota(grpc::ResourceQuota("coordinator").SetMaxThreads(kMaxThreads));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // else a port in use would be shared
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  parts->server = builder.BuildAndStart();
  if (parts->server == nullptr || port == 0) {
    return absl::UnavailableError(
        fmt::format("cannot listen on {}: {}; name another address with "
                    "--listen, port 0 for any that is free",
                    options.listen, WhyNot(listen)));
  }
  for (const char* service : {"mnemo.v1.Job", "mnemo.v1.Worker"}) {
    parts->server->GetHealthCheckService()->SetServingStatus(service, true);
  }
  if (!IsLoopback(listen.host)) {
    LogWarning(
        "listening on {}: whoever reaches it can watch this job, and nothing is encrypted; only "
        "saving, stopping and joining need the token",
        options.listen);
  }
  const bool all = listen.host == "0.0.0.0" || listen.host == "[::]";
  const std::string address = fmt::format("{}:{}", all ? HostName() : listen.host, port);
  return std::unique_ptr<CoordinatorServer>(new CoordinatorServer(std::move(parts), address));
}

}  // namespace mnemo
