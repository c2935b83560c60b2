#include "src/parallel/simulate.h"

#include <algorithm>
#include <map>
#include <queue>

#include "src/core/status.h"
#include "src/parallel/slot_ledger.h"

namespace mnemo {
namespace {

struct Work {
  Direction direction;
  PassUnit step;
};

class Clockwork {
 public:
  Clockwork(const ScheduleShape& shape, const SimulationOptions& options)
      : shape_(shape), options_(options), work_(shape.ranks), next_(shape.ranks, 0) {
    for (int rank = 0; rank < shape.ranks; ++rank) {
      for (int wavefront = 0; wavefront < options.wavefronts; ++wavefront) {
        for (const Direction direction : {Direction::kForward, Direction::kBackward}) {
          for (const PassUnit& step : PassOrder(shape, rank, direction)) {
            work_[rank].push_back({direction, step});
          }
        }
      }
    }
    for (const Direction direction : {Direction::kForward, Direction::kBackward}) {
      Edges& edges = edges_[direction];
      for (int edge = 0; edge < shape.ranks; ++edge) {
        edges.slots.emplace_back(SlotsOf(shape, options.slots, edge));
      }
      edges.arrivals.resize(shape.ranks);
    }
    result_.ranks.resize(shape.ranks);
  }

  Simulation Run() {
    StartWhatCan(0);
    while (!moments_.empty()) {
      const int64_t now = moments_.top();
      // All that ends at this moment ends before anything starts.
      while (!moments_.empty() && moments_.top() == now) moments_.pop();
      for (int rank = 0; rank < shape_.ranks; ++rank) EndUnit(rank, now);
      StartWhatCan(now);
    }
    Summarize();
    return result_;
  }

 private:
  struct Edges {
    std::vector<SlotLedger> slots;
    std::vector<std::queue<int64_t>> arrivals;  // by edge: when what was sent comes
  };

  SlotLedger& SendSlots(int rank, Direction direction) {
    return edges_.at(direction).slots[SendEdge(shape_, rank, direction)];
  }

  // Finishes the unit at work if its time has come.
  void EndUnit(int rank, int64_t now) {
    std::vector<UnitSpan>& spans = result_.ranks[rank];
    if (spans.size() == next_[rank] || spans.back().end != now) return;
    const Work& work = work_[rank][next_[rank]++];
    Edges& edges = edges_.at(work.direction);
    if (work.step.sends) {
      edges.arrivals[SendEdge(shape_, rank, work.direction)].push(now + options_.hop_ticks);
      if (options_.hop_ticks > 0) moments_.push(now + options_.hop_ticks);
    }
    if (work.step.receives) edges.slots[ReceiveEdge(shape_, rank, work.direction)].Free();
  }

  void StartWhatCan(int64_t now) {
    for (int rank = 0; rank < shape_.ranks; ++rank) {
      const bool at_work = result_.ranks[rank].size() > next_[rank];
      if (at_work || next_[rank] == work_[rank].size()) continue;
      const Work& work = work_[rank][next_[rank]];
      auto& arrivals =
          edges_.at(work.direction).arrivals[ReceiveEdge(shape_, rank, work.direction)];
      if (work.step.receives && (arrivals.empty() || arrivals.front() > now)) continue;
      if (work.step.sends && !SendSlots(rank, work.direction).CanTake()) continue;
      if (work.step.receives) arrivals.pop();
      if (work.step.sends) SendSlots(rank, work.direction).Take();
      const int64_t ticks =
          work.direction == Direction::kForward ? options_.forward_ticks : options_.backward_ticks;
      result_.ranks[rank].push_back({work.step.unit, work.direction, now, now + ticks});
      moments_.push(now + ticks);
    }
  }

  void Summarize() {
    for (int rank = 0; rank < shape_.ranks; ++rank) {
      result_.deadlock |= next_[rank] < work_[rank].size();
      if (!result_.ranks[rank].empty()) {
        result_.ticks = std::max(result_.ticks, result_.ranks[rank].back().end);
      }
    }
    result_.busy = BusyFraction(result_.ranks);
    result_.peak = {0, 0};
    for (const auto& [direction, edges] : edges_) {
      for (int edge = 0; edge < shape_.ranks; ++edge) {
        int& peak = edge == shape_.ranks - 1 ? result_.peak.wrap : result_.peak.other;
        peak = std::max(peak, edges.slots[edge].peak());
      }
    }
  }

  ScheduleShape shape_;
  SimulationOptions options_;
  std::vector<std::vector<Work>> work_;  // by rank
  std::vector<size_t> next_;             // by rank: first unit not ended
  std::map<Direction, Edges> edges_;
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<>> moments_;
  Simulation result_;
};

}  // namespace

Simulation Simulate(const ScheduleShape& shape, const SimulationOptions& options) {
  MNEMO_CHECK(shape.ranks >= 1 && shape.slices >= 1 && shape.layers >= 1 &&
              shape.micro_batches >= 1);
  MNEMO_CHECK(options.forward_ticks > 0 && options.backward_ticks > 0 && options.hop_ticks >= 0);
  return Clockwork(shape, options).Run();
}

int64_t StepTicks(const ScheduleShape& shape, int64_t forward_ticks, int64_t backward_ticks) {
  const int64_t units = int64_t{shape.layers} * shape.micro_batches;  // of a turn
  const int64_t turns = (shape.slices + shape.ranks - 1) / shape.ranks;
  const int64_t steps = (turns - 1) * std::max<int64_t>(units, shape.ranks) + units +
                        (shape.slices - 1) % shape.ranks;
  return steps * (forward_ticks + backward_ticks);
}

double BusyFraction(const std::vector<std::vector<UnitSpan>>& ranks) {
  int64_t begin = INT64_MAX, end = INT64_MIN, busy = 0;
  for (const std::vector<UnitSpan>& spans : ranks) {
    for (const UnitSpan& span : spans) {
      begin = std::min(begin, span.begin);
      end = std::max(end, span.end);
      busy += span.end - span.begin;
    }
  }
  if (end <= begin) return 0;
  return static_cast<double>(busy) /
         (static_cast<double>(end - begin) * static_cast<double>(ranks.size()));
}

}  // namespace mnemo
