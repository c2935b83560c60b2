// Hands carries to the right and their adjoints to the left, through a finite number of slots.
//
// A slot of the outgoing edge is taken when a unit starts that will fill it (TakeSlot), and freed
// when the unit that read it has ended on the other rank (FreeSlot there, which returns a credit).
// So nobody runs further ahead than the slots allow, and memory is bounded by the plan.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "src/parallel/transport.h"
#include "src/parallel/unit_schedule.h"

namespace mnemo {

// What has passed one edge in one direction, as seen by one of its ends.
struct EdgeCounters {
  int64_t messages = 0;
  int64_t bytes = 0;         // with headers; between ranks only
  double wait_seconds = 0;   // sender: for a free slot; receiver: for the carry
  int64_t buffer_bytes = 0;  // held for messages, from the first one on
};

struct RelayCounters {
  EdgeCounters sent, received;
};

// One rank's ends of its edges. One thread at a time. RunForward and RunBackward call it; the order
// of calls is theirs. An error is final.
class Relay {
 public:
  virtual ~Relay() = default;

  // A pass begins, with the rank's units in order.
  virtual absl::Status Begin(Direction direction, const std::vector<PassUnit>& order) = 0;
  // The carry handed to `unit`.
  virtual absl::StatusOr<std::vector<Tensor>> Receive(Direction direction, const Unit& unit) = 0;
  virtual absl::Status TakeSlot(Direction direction) = 0;
  // What `unit` hands over, into the slot taken last. Does not wait for the neighbour.
  virtual absl::Status Send(Direction direction, const Unit& unit, std::vector<Tensor> carry) = 0;
  virtual absl::Status FreeSlot(Direction direction) = 0;

  // Waits until the neighbours have freed every slot, so that nothing is under way. To be called on
  // all ranks of the group between passes, before the relay or its transport ends in peace.
  virtual absl::Status Drain() = 0;

  // The rank cannot go on: the others' waits end with `why` (see Transport::Abort).
  virtual void Abort(const absl::Status& why) = 0;

  virtual RelayCounters counters(Direction direction) const = 0;
};

// Buffers, of a carry each, that a rank's relay holds at most: a receiving end as many as its edge
// has slots, a sending end two. None for R = 1.
int64_t RelayBuffers(const ScheduleShape& shape, const EdgeSlots& slots, int rank);

// R = 1: the rank hands to itself. Tensors are passed on, not copied. FailedPrecondition where a
// slot is missing, since nobody else could free one.
std::unique_ptr<Relay> MakeLocalRelay(const ScheduleShape& shape, const EdgeSlots& slots);

struct TransportRelayOptions {
  ScheduleShape shape;
  std::vector<int> ranks;  // of the transport, in the order of the sp axis; R of them
  EdgeSlots slots;
  // The first of 4 R channel ids. Relays of groups without a common rank may share them.
  int first_channel = 1024;
  // For another rank's work, which may be many units away, or be compiled, loaded or saved first.
  Timeout timeout = std::chrono::minutes(10);
};

// R >= 2, carries on the CPU. The transport outlives it. Every edge and direction has a channel of
// its own, so that nothing waits behind something else. Receives are posted as soon as their slot
// is free; a slot's buffer is used again.
std::unique_ptr<Relay> MakeTransportRelay(Transport& transport,
                                          const TransportRelayOptions& options);

}  // namespace mnemo
