// The coordinator's gRPC server: mnemo.v1.Job and mnemo.v1.Worker over a ledger, the standard
// health service and server reflection.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "src/job/service/job_ledger.h"

namespace mnemo {

struct ServerOptions {
  std::string listen = "127.0.0.1:0";  // HOST:PORT; port 0: any that is free
  std::string token;                   // what Worker, SaveCheckpoint and Stop ask for
};

// Thread-safe. Its threads do not grow with the number of clients.
class CoordinatorServer {
 public:
  // Serves at once. Unavailable if the address cannot be listened on; InvalidArgument if it is
  // none. Warns beyond loopback: nothing is encrypted. `ledger` outlives the server.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(JobLedger& ledger,
                                                                  const ServerOptions& options);
  // Ends all calls that are still open, after giving them a second.
  ~CoordinatorServer();

  // Where clients find it: the host that it listens on, or this host's name if it is all of them.
  const std::string& address() const { return address_; }

 private:
  struct Parts;
  CoordinatorServer(std::unique_ptr<Parts> parts, std::string address);

  std::unique_ptr<Parts> parts_;
  const std::string address_;
};

}  // namespace mnemo
