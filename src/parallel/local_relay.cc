#include <deque>
#include <utility>

#include "src/core/status.h"
#include "src/parallel/relay.h"
#include "src/parallel/slot_ledger.h"

namespace mnemo {
namespace {

class LocalRelay : public Relay {
 public:
  LocalRelay(const ScheduleShape& shape, const EdgeSlots& slots)
      : forward_(SlotsOf(shape, slots, 0)), backward_(SlotsOf(shape, slots, 0)) {
    MNEMO_CHECK(shape.ranks == 1);
  }

  absl::Status Begin(Direction, const std::vector<PassUnit>&) override { return absl::OkStatus(); }

  absl::StatusOr<std::vector<Tensor>> Receive(Direction direction, const Unit&) override {
    Way& way = Of(direction);
    MNEMO_CHECK(!way.queue.empty());
    std::vector<Tensor> carry = std::move(way.queue.front());
    way.queue.pop_front();
    ++way.counters.received.messages;
    return carry;
  }

  absl::Status TakeSlot(Direction direction) override {
    SlotLedger& slots = Of(direction).slots;
    if (!slots.CanTake()) {
      return FailedPrecondition(
          "all {} slots of the {} hand-off are taken, and on one rank nothing "
          "else can free one; L * M + 1 are needed",
          slots.slots(), Name(direction));
    }
    slots.Take();
    return absl::OkStatus();
  }

  absl::Status Send(Direction direction, const Unit&, std::vector<Tensor> carry) override {
    Way& way = Of(direction);
    way.queue.push_back(std::move(carry));
    ++way.counters.sent.messages;
    return absl::OkStatus();
  }

  absl::Status FreeSlot(Direction direction) override {
    Of(direction).slots.Free();
    return absl::OkStatus();
  }

  absl::Status Drain() override { return absl::OkStatus(); }

  void Abort(const absl::Status&) override {}

  RelayCounters counters(Direction direction) const override {
    return (direction == Direction::kForward ? forward_ : backward_).counters;
  }

 private:
  struct Way {
    explicit Way(int count) : slots(count) {}
    SlotLedger slots;
    std::deque<std::vector<Tensor>> queue;
    RelayCounters counters;
  };
  Way& Of(Direction direction) { return direction == Direction::kForward ? forward_ : backward_; }

  Way forward_, backward_;
};

}  // namespace

std::unique_ptr<Relay> MakeLocalRelay(const ScheduleShape& shape, const EdgeSlots& slots) {
  return std::make_unique<LocalRelay>(shape, slots);
}

}  // namespace mnemo
