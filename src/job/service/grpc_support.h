// What server and clients share of gRPC, declared without its headers.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"

namespace grpc {
class Channel;
class ClientContext;
class ServerContextBase;
class Service;
class Status;
}  // namespace grpc

namespace mnemo {

class JobLedger;

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

// Sends gRPC's own log lines to LogDebug: what matters to users comes as a Status.
void QuietGrpc();

// A connection of its own, through no proxy. Connects when first used.
std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address);

// The token travels as "authorization: Bearer TOKEN".
void AddToken(grpc::ClientContext& context, const std::string& token);
// Unauthenticated without the token. Takes equally long wherever a wrong one differs.
grpc::Status CheckToken(const grpc::ServerContextBase& context, const std::string& token);

// The two services of job.proto. `ledger` outlives them, and all calls have ended when they go.
std::unique_ptr<grpc::Service> MakeJobService(JobLedger& ledger, const std::string& token);
std::unique_ptr<grpc::Service> MakeWorkerService(JobLedger& ledger, const std::string& token);

}  // namespace mnemo
