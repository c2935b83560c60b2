// The order in which units of work run on each rank, and the loop that runs them.
//
// A unit is one block call: (micro-batch, slice, layer). Slices are dealt to the R ranks of the sp
// axis in turn, slice s to rank s mod R. Unit (m, s, l) needs (m, s, l - 1) on the same rank and
// (m, s - 1, l) on the left neighbour: what passes between them is the carry. Each rank runs its
// units in one static order: by turn, then micro-batch, then layer; the backward pass is the mirror
// image and passes adjoints of the carry from right to left.
//
// Edge e joins rank e to rank (e + 1) mod R; of R = 1 there is one, from the rank to itself, and of
// R = 2 there are two between the same pair. An edge has a finite number of slots in each direction
// (slot_ledger.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "src/core/tensor.h"

namespace mnemo {

class Relay;

enum class Direction : uint8_t { kForward, kBackward };
const char* Name(Direction direction);  // "forward", "backward"

struct Unit {
  int micro_batch = 0;
  int64_t slice = 0;
  int layer = 0;
  bool operator==(const Unit&) const = default;
};

struct ScheduleShape {
  int64_t slices = 1;     // S
  int ranks = 1;          // R
  int layers = 1;         // L
  int micro_batches = 1;  // M
};

// A rank's units in forward order; the backward order is its reverse.
std::vector<Unit> ForwardOrder(const ScheduleShape& shape, int rank);

// A unit of a pass, and whether something is handed to it and by it. The first unit of a direction
// receives nothing, the last hands over nothing.
struct PassUnit {
  Unit unit;
  bool receives = false;
  bool sends = false;
};
std::vector<PassUnit> PassOrder(const ScheduleShape& shape, int rank, Direction direction);

// The edges that a rank sends and receives on.
int SendEdge(const ScheduleShape& shape, int rank, Direction direction);
int ReceiveEdge(const ScheduleShape& shape, int rank, Direction direction);

// Slots of an edge, in each direction. The wrap edge R - 1 leads from the last rank of a turn to
// the first of the next and has to hold what waits for that turn.
struct EdgeSlots {
  int wrap = 2;
  int other = 2;
};
int SlotsOf(const ScheduleShape& shape, const EdgeSlots& slots, int edge);
// The fewest with which a step takes no longer than with any number:
// max(2, L * M - R + 2) on the wrap edge, 2 on the others.
EdgeSlots SlotsForFullSpeed(const ScheduleShape& shape);
// InvalidArgument, with the figures, if there are fewer.
absl::Status CheckSlots(const ScheduleShape& shape, const EdgeSlots& slots);

// What a schedule runs. Carries travel as flat lists of tensors; an empty list is no carry (the
// first slice) or, backward, no adjoint (the last slice).
class UnitBody {
 public:
  virtual ~UnitBody() = default;
  virtual std::vector<Tensor> Forward(const Unit& unit, std::vector<Tensor> carry) = 0;
  virtual std::vector<Tensor> Backward(const Unit& unit, std::vector<Tensor> carry_adjoint) = 0;
};

// When a unit ran. Nanoseconds of the monotonic clock, or ticks of the simulation.
struct UnitSpan {
  Unit unit;
  Direction direction = Direction::kForward;
  int64_t begin = 0, end = 0;
};

// Runs one rank's units of a pass. Every rank of the sp group calls it, with the same shape and
// with a relay of its own. Errors are the relay's; what the body throws passes through. Either is
// final, and the other ranks have been told when it comes out (Relay::Abort). The units run are
// appended to `trace` if it is given.
absl::Status RunForward(const ScheduleShape& shape, int rank, Relay& relay, UnitBody& body,
                        std::vector<UnitSpan>* trace = nullptr);
absl::Status RunBackward(const ScheduleShape& shape, int rank, Relay& relay, UnitBody& body,
                         std::vector<UnitSpan>* trace = nullptr);

// One rank, R = 1, with a relay of its own.
void RunForward(const ScheduleShape& shape, UnitBody& body);
void RunBackward(const ScheduleShape& shape, UnitBody& body);

}  // namespace mnemo
