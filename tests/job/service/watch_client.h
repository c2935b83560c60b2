// A client of Job.Watch with a connection of its own. Includes gRPC's headers, which are slow to
// compile.
#pragma once

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>

#include "mnemo/v1/job.grpc.pb.h"

namespace mnemo {

struct WatchClient {
  explicit WatchClient(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    // Else gRPC takes megabytes off the wire for a client that does not read, so that the test's
    // own memory grows, and the server has nobody slow to deal with.
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    stub = v1::Job::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    stream = stub->Watch(&context, v1::WatchRequest());
  }

  grpc::ClientContext context;
  std::unique_ptr<v1::Job::Stub> stub;
  std::unique_ptr<grpc::ClientReader<v1::JobUpdate>> stream;
};

}  // namespace mnemo
