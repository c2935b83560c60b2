// Collective operations of a group of ranks.
//
// Every rank of the group calls the same operations in the same order with agreeing arguments.
// Results are bitwise the same on every rank and do not depend on timing: sums are taken in rank
// order, ((x_0 + x_1) + x_2) + ..., element by element. One thread at a time. An error is final.
//
// Tensors are contiguous, on the device that the implementation is for. A tensor is a handle: what
// is written goes to its storage.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "src/core/tensor.h"
#include "src/parallel/transport.h"

namespace mnemo {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;  // in the group
  virtual int size() const = 0;

  // Nobody returns before all have come.
  virtual absl::Status Barrier() = 0;

  // root's tensor to all; the same shape and dtype everywhere.
  virtual absl::Status Broadcast(int root, const Tensor& tensor) = 0;

  // The sum over the group, in place. f32 or f64.
  virtual absl::Status AllReduceSum(const Tensor& tensor) = 0;

  // Element counts of a flat tensor's pieces, one for each rank, in order; 0 is allowed. The same
  // on every rank.
  using Pieces = std::span<const int64_t>;
  // `mine` [pieces[rank]] = the sum over the group of that piece of `all` [sum of pieces]. f32 or
  // f64. `mine` may be the rank's piece of `all`, and share nothing else with it. `all` keeps its
  // values otherwise.
  virtual absl::Status ReduceScatterSum(const Tensor& all, const Tensor& mine, Pieces pieces) = 0;
  // `all` = the pieces of all ranks. `mine` may be the rank's piece of `all`. Any dtype.
  virtual absl::Status AllGather(const Tensor& mine, const Tensor& all, Pieces pieces) = 0;

  // For control: a short string of each rank, of any length. Host memory.
  virtual absl::StatusOr<std::vector<std::string>> AllGatherStrings(std::string_view mine) = 0;

  // The same where a rank's string may take longer to come by than the timeout: `work` makes it, on
  // this thread, and as long as that runs the others wait. They wait no more, and the transport is
  // aborted, once nothing has been heard of a rank for the timeout: it is gone, stopped or cut off.
  virtual absl::StatusOr<std::vector<std::string>> AllGatherWork(
      const std::function<std::string()>& work) = 0;

  // For scalars on the host, such as norms and counts.
  virtual absl::Status AllReduceSum(std::span<double> values) = 0;
};

// Sizes of `count` elements cut into `ranks` pieces that differ by one at most, the longer ones
// first.
std::vector<int64_t> EvenPieces(int64_t count, int ranks);

struct CommunicatorOptions {
  // Ranks of the transport, its own among them; the place in the list is the rank in the group.
  std::vector<int> ranks;
  // Groups that share a rank need different channels.
  Channel channel;
  // Longest wait for one message. Peers may be late by as much work as lies between two calls, but
  // for AllGatherWork's.
  Timeout timeout = std::chrono::minutes(10);
};

// What a sum of so many bytes over so many ranks (AllReduceSum, ReduceScatterSum) takes beside the
// tensor, at most.
int64_t ReductionBufferBytes(int64_t bytes, int ranks);

// Over a transport that outlives it; what lies on a GPU passes through host memory. Does not
// communicate by itself.
std::unique_ptr<Communicator> MakeHostCommunicator(Transport& transport,
                                                   const CommunicatorOptions& options);

}  // namespace mnemo
