#include <algorithm>
#include <array>
#include <deque>
#include <utility>

#include "src/core/status.h"
#include "src/parallel/packed_tensors.h"
#include "src/parallel/relay.h"
#include "src/parallel/slot_ledger.h"

namespace mnemo {
namespace {

class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  ~Stopwatch() {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// Of a sending end.
constexpr int kBuffers = 2;

// A message under way, or to come, and its place.
struct Slot {
  std::vector<std::byte> bytes;
  Transfer transfer;
  int64_t counted = 0;  // of its capacity
};

void Count(Slot& slot, EdgeCounters& counters) {
  ++counters.messages;
  counters.bytes += static_cast<int64_t>(slot.bytes.size());
  const int64_t capacity = static_cast<int64_t>(slot.bytes.capacity());
  counters.buffer_bytes += capacity - std::exchange(slot.counted, capacity);
}

// What both ends of an edge know in one direction.
struct EdgeEnd {
  Transport* transport = nullptr;
  int peer = 0;
  Channel data, credit;
  int slots = 0;
  Timeout timeout{};
};

// A credit is one byte. It is small enough to be under way by itself; its handle is kept until
// done.
class SendEnd {
 public:
  explicit SendEnd(EdgeEnd end) : end_(std::move(end)), ledger_(end_.slots) {}

  absl::Status TakeSlot() {
    if (!ledger_.CanTake()) MNEMO_RETURN_IF_ERROR(WaitForCredit());
    ledger_.Take();
    return absl::OkStatus();
  }

  absl::Status Send(const Unit& unit, const std::vector<Tensor>& carry) {
    // The receiver has posted a receive for every slot, so that the message before the last is
    // through, or will be as soon as the neighbour has begun the pass.
    Slot& slot = buffers_[counters_.messages % kBuffers];
    if (slot.transfer.valid()) MNEMO_RETURN_IF_ERROR(slot.transfer.Wait(end_.timeout));
    PackTensors(unit, carry, slot.bytes);
    slot.transfer = end_.transport->Send(end_.peer, end_.data, slot.bytes);
    Count(slot, counters_);
    return absl::OkStatus();
  }

  absl::Status Drain() {
    while (ledger_.taken() > 0) MNEMO_RETURN_IF_ERROR(WaitForCredit());
    for (Slot& slot : buffers_) {
      if (slot.transfer.valid()) MNEMO_RETURN_IF_ERROR(slot.transfer.Wait(end_.timeout));
    }
    return absl::OkStatus();
  }

  const EdgeCounters& counters() const { return counters_; }

 private:
  absl::Status WaitForCredit() {
    const Stopwatch watch(counters_.wait_seconds);
    std::byte credit{};
    Transfer transfer = end_.transport->Receive(end_.peer, end_.credit, {&credit, 1});
    MNEMO_RETURN_IF_ERROR(transfer.Wait(end_.timeout));
    ledger_.Free();
    return absl::OkStatus();
  }

  EdgeEnd end_;
  SlotLedger ledger_;
  std::array<Slot, kBuffers> buffers_;  // used in turn
  EdgeCounters counters_;
};

class ReceiveEnd {
 public:
  explicit ReceiveEnd(EdgeEnd end) : end_(std::move(end)), slots_(end_.slots) {}

  // `messages` will come in this pass; all slots are free.
  void Begin(int64_t messages) {
    expected_ += messages;
    while (posted_ < expected_ && posted_ < freed_ + end_.slots) Post();
  }

  absl::StatusOr<std::vector<Tensor>> Receive(const Unit& from) {
    MNEMO_CHECK(received_ < posted_);
    Slot& slot = slots_[received_++ % end_.slots];
    {
      const Stopwatch watch(counters_.wait_seconds);
      MNEMO_RETURN_IF_ERROR(slot.transfer.Wait(end_.timeout));
    }
    Count(slot, counters_);
    MNEMO_ASSIGN_OR_RETURN(UnpackedTensors message, UnpackTensors(slot.bytes));
    if (message.unit != from) {
      return Internal(
          "'{}': rank {} handed over unit (micro-batch {}, slice {}, layer {}) where "
          "({}, {}, {}) was due; do all ranks follow the same plan?",
          end_.data.name, end_.peer, message.unit.micro_batch, message.unit.slice,
          message.unit.layer, from.micro_batch, from.slice, from.layer);
    }
    return std::move(message.tensors);
  }

  absl::Status FreeSlot() {
    ++freed_;
    if (posted_ < expected_) Post();
    while (!credits_.empty() && credits_.front().Done()) {
      MNEMO_RETURN_IF_ERROR(credits_.front().Wait(end_.timeout));
      credits_.pop_front();
    }
    credits_.push_back(end_.transport->Send(end_.peer, end_.credit, {&kCredit, 1}));
    return absl::OkStatus();
  }

  absl::Status Drain() {
    for (; !credits_.empty(); credits_.pop_front()) {
      MNEMO_RETURN_IF_ERROR(credits_.front().Wait(end_.timeout));
    }
    return absl::OkStatus();
  }

  const EdgeCounters& counters() const { return counters_; }

 private:
  static constexpr std::byte kCredit{1};

  void Post() {
    Slot& slot = slots_[posted_++ % end_.slots];
    slot.transfer = end_.transport->ReceiveMessage(end_.peer, end_.data, &slot.bytes);
  }

  EdgeEnd end_;
  std::vector<Slot> slots_;
  std::deque<Transfer> credits_;
  int64_t expected_ = 0, posted_ = 0, received_ = 0, freed_ = 0;
  EdgeCounters counters_;
};

class TransportRelay : public Relay {
 public:
  TransportRelay(Transport& transport, const TransportRelayOptions& options)
      : transport_(transport),
        ways_{Way(transport, options, Direction::kForward),
              Way(transport, options, Direction::kBackward)} {}

  absl::Status Begin(Direction direction, const std::vector<PassUnit>& order) override {
    Of(direction).receive.Begin(std::count_if(order.begin(), order.end(),
                                              [](const PassUnit& step) { return step.receives; }));
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<Tensor>> Receive(Direction direction, const Unit& unit) override {
    Unit from = unit;
    from.slice += direction == Direction::kForward ? -1 : 1;
    return Of(direction).receive.Receive(from);
  }

  absl::Status TakeSlot(Direction direction) override { return Of(direction).send.TakeSlot(); }

  absl::Status Send(Direction direction, const Unit& unit, std::vector<Tensor> carry) override {
    return Of(direction).send.Send(unit, carry);
  }

  absl::Status FreeSlot(Direction direction) override { return Of(direction).receive.FreeSlot(); }

  absl::Status Drain() override {
    for (Way& way : ways_) MNEMO_RETURN_IF_ERROR(way.receive.Drain());
    for (Way& way : ways_) MNEMO_RETURN_IF_ERROR(way.send.Drain());
    return absl::OkStatus();
  }

  void Abort(const absl::Status& why) override { transport_.Abort(why); }

  RelayCounters counters(Direction direction) const override {
    const Way& way = ways_[static_cast<size_t>(direction)];
    return {way.send.counters(), way.receive.counters()};
  }

 private:
  struct Way {
    Way(Transport& transport, const TransportRelayOptions& options, Direction direction)
        : send(End(transport, options, direction, true)),
          receive(End(transport, options, direction, false)) {}
    SendEnd send;
    ReceiveEnd receive;
  };

  static EdgeEnd End(Transport& transport, const TransportRelayOptions& options,
                     Direction direction, bool sends) {
    const ScheduleShape& shape = options.shape;
    const auto found = std::find(options.ranks.begin(), options.ranks.end(), transport.rank());
    MNEMO_CHECK(shape.ranks >= 2 && found != options.ranks.end());
    MNEMO_CHECK(options.ranks.size() == static_cast<size_t>(shape.ranks));
    const int rank = static_cast<int>(found - options.ranks.begin());
    const int edge = sends ? SendEdge(shape, rank, direction) : ReceiveEdge(shape, rank, direction);
    // Edge e joins e and e + 1: the peer is whichever of them this rank is not.
    const int right = (edge + 1) % shape.ranks;
    const int first = options.first_channel + 4 * edge + 2 * static_cast<int>(direction);
    return {.transport = &transport,
            .peer = options.ranks[rank == edge ? right : edge],
            .data = {first, fmt::format("{} hand-off, edge {}", Name(direction), edge)},
            .credit = {first + 1, fmt::format("{} credit, edge {}", Name(direction), edge)},
            .slots = SlotsOf(shape, options.slots, edge),
            .timeout = options.timeout};
  }

  Way& Of(Direction direction) { return ways_[static_cast<size_t>(direction)]; }

  Transport& transport_;
  std::array<Way, 2> ways_;
};

}  // namespace

int64_t RelayBuffers(const ScheduleShape& shape, const EdgeSlots& slots, int rank) {
  if (shape.ranks == 1 || rank >= shape.slices) return 0;
  const int64_t last = (shape.slices - 1) % shape.ranks;
  const bool single = rank + shape.ranks >= shape.slices;  // the rank has one slice
  // All but the last slice are handed on, all but the first handed to.
  const bool sends = !(single && rank == last), receives = !(single && rank == 0);
  const Direction forward = Direction::kForward, backward = Direction::kBackward;
  int64_t buffers = 0;
  if (sends) {
    buffers += kBuffers + SlotsOf(shape, slots, ReceiveEdge(shape, rank, backward));
  }
  if (receives) {
    buffers += kBuffers + SlotsOf(shape, slots, ReceiveEdge(shape, rank, forward));
  }
  return buffers;
}

std::unique_ptr<Relay> MakeTransportRelay(Transport& transport,
                                          const TransportRelayOptions& options) {
  return std::make_unique<TransportRelay>(transport, options);
}

}  // namespace mnemo
