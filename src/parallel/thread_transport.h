// Ranks as threads of one process: for sp on one machine, and for tests.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "src/parallel/transport.h"

namespace mnemo {

struct ThreadTransportOptions {
  // Messages up to this long are copied when sent, so that the send is done at once. Longer ones
  // are copied once, straight into the receiver's buffer, when both sides are there.
  int64_t eager_bytes = 4096;
  DelayOptions delays;
};

// The transports of all ranks. Thread-safe. Aborting any of them aborts all.
class ThreadWorld {
 public:
  explicit ThreadWorld(int ranks, const ThreadTransportOptions& options = {});
  ~ThreadWorld();  // all transfers have been dropped
  int size() const;
  Transport& rank(int rank);

 private:
  class Shared;
  class Endpoint;
  class State;
  std::unique_ptr<Shared> shared_;
  std::vector<std::unique_ptr<Endpoint>> endpoints_;
};

// Runs body(transport) on one thread per rank, each with one thread for kernels
// (SetThreadsForThisThread), and waits for all. The first rank to return an error or to throw
// aborts the others; its error is what is returned, not what followed from it.
absl::Status RunOnThreads(int ranks, const ThreadTransportOptions& options,
                          const std::function<absl::Status(Transport&)>& body);

}  // namespace mnemo
