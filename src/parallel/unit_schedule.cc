#include "src/parallel/unit_schedule.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "src/core/status.h"
#include "src/core/trace_range.h"
#include "src/parallel/relay.h"

namespace mnemo {
namespace {

int64_t Now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Runs the unit. If it throws, the neighbours are told why before the stack is unwound: else they
// would only hear that transfers were given up.
std::vector<Tensor> RunUnit(Direction direction, const Unit& unit, std::vector<Tensor> carry,
                            UnitBody& body, Relay& relay) {
  const TraceRange range(direction == Direction::kForward ? "forward unit" : "backward unit");
  try {
    return direction == Direction::kForward ? body.Forward(unit, std::move(carry))
                                            : body.Backward(unit, std::move(carry));
  } catch (const TensorError& error) {
    relay.Abort(error.status());
    throw;
  } catch (const std::exception& error) {
    relay.Abort(absl::InternalError(error.what()));
    throw;
  }
}

absl::Status RunUnits(const std::vector<PassUnit>& order, Direction direction, Relay& relay,
                      UnitBody& body, std::vector<UnitSpan>* trace) {
  MNEMO_RETURN_IF_ERROR(relay.Begin(direction, order));
  for (const PassUnit& step : order) {
    std::vector<Tensor> carry;
    if (step.receives) {
      MNEMO_ASSIGN_OR_RETURN(carry, relay.Receive(direction, step.unit));
    }
    if (step.sends) MNEMO_RETURN_IF_ERROR(relay.TakeSlot(direction));
    const int64_t begin = Now();
    std::vector<Tensor> result = RunUnit(direction, step.unit, std::move(carry), body, relay);
    if (trace != nullptr) trace->push_back({step.unit, direction, begin, Now()});
    if (step.sends) MNEMO_RETURN_IF_ERROR(relay.Send(direction, step.unit, std::move(result)));
    if (step.receives) MNEMO_RETURN_IF_ERROR(relay.FreeSlot(direction));
  }
  return absl::OkStatus();
}

absl::Status RunPass(const ScheduleShape& shape, int rank, Direction direction, Relay& relay,
                     UnitBody& body, std::vector<UnitSpan>* trace) {
  const absl::Status status =
      RunUnits(PassOrder(shape, rank, direction), direction, relay, body, trace);
  if (!status.ok()) relay.Abort(status);
  return status;
}

void RunAlone(const ScheduleShape& shape, Direction direction, UnitBody& body) {
  MNEMO_CHECK(shape.ranks == 1);
  const auto relay = MakeLocalRelay(shape, SlotsForFullSpeed(shape));
  const absl::Status status = RunPass(shape, 0, direction, *relay, body, nullptr);
  MNEMO_CHECK(status.ok(), "{}", std::string(status.message()));
}

}  // namespace

const char* Name(Direction direction) {
  return direction == Direction::kForward ? "forward" : "backward";
}

std::vector<Unit> ForwardOrder(const ScheduleShape& shape, int rank) {
  MNEMO_CHECK(rank >= 0 && rank < shape.ranks);
  std::vector<Unit> units;
  for (int64_t slice = rank; slice < shape.slices; slice += shape.ranks) {
    for (int m = 0; m < shape.micro_batches; ++m) {
      for (int layer = 0; layer < shape.layers; ++layer) units.push_back({m, slice, layer});
    }
  }
  return units;
}

std::vector<PassUnit> PassOrder(const ScheduleShape& shape, int rank, Direction direction) {
  std::vector<Unit> units = ForwardOrder(shape, rank);
  const bool forward = direction == Direction::kForward;
  if (!forward) std::reverse(units.begin(), units.end());
  std::vector<PassUnit> order;
  order.reserve(units.size());
  for (const Unit& unit : units) {
    const bool first = unit.slice == 0, last = unit.slice + 1 == shape.slices;
    order.push_back({unit, forward ? !first : !last, forward ? !last : !first});
  }
  return order;
}

int SendEdge(const ScheduleShape& shape, int rank, Direction direction) {
  return direction == Direction::kForward ? rank : (rank + shape.ranks - 1) % shape.ranks;
}

int ReceiveEdge(const ScheduleShape& shape, int rank, Direction direction) {
  return direction == Direction::kForward ? (rank + shape.ranks - 1) % shape.ranks : rank;
}

int SlotsOf(const ScheduleShape& shape, const EdgeSlots& slots, int edge) {
  return edge == shape.ranks - 1 ? slots.wrap : slots.other;
}

EdgeSlots SlotsForFullSpeed(const ScheduleShape& shape) {
  return {std::max(2, shape.layers * shape.micro_batches - shape.ranks + 2), 2};
}

absl::Status CheckSlots(const ScheduleShape& shape, const EdgeSlots& slots) {
  const EdgeSlots needed = SlotsForFullSpeed(shape);
  if (slots.wrap >= needed.wrap && slots.other >= needed.other) return absl::OkStatus();
  return InvalidArgument(
      "{} slots on the wrap edge and {} on the others: {} layers x {} micro-batches on {} ranks "
      "need "
      "{} and {}, or ranks wait for each other, with fewer still for ever",
      slots.wrap, slots.other, shape.layers, shape.micro_batches, shape.ranks, needed.wrap,
      needed.other);
}

absl::Status RunForward(const ScheduleShape& shape, int rank, Relay& relay, UnitBody& body,
                        std::vector<UnitSpan>* trace) {
  return RunPass(shape, rank, Direction::kForward, relay, body, trace);
}

absl::Status RunBackward(const ScheduleShape& shape, int rank, Relay& relay, UnitBody& body,
                         std::vector<UnitSpan>* trace) {
  return RunPass(shape, rank, Direction::kBackward, relay, body, trace);
}

void RunForward(const ScheduleShape& shape, UnitBody& body) {
  RunAlone(shape, Direction::kForward, body);
}

void RunBackward(const ScheduleShape& shape, UnitBody& body) {
  RunAlone(shape, Direction::kBackward, body);
}

}  // namespace mnemo
