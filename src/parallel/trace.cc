#include "src/parallel/trace.h"

#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "src/core/status.h"

namespace mnemo {
namespace {

std::string Text(const UnitSpan& span) {
  return fmt::format("{} unit (micro-batch {}, slice {}, layer {})", Name(span.direction),
                     span.unit.micro_batch, span.unit.slice, span.unit.layer);
}

// What a unit of one wavefront is called.
using Key = std::tuple<Direction, int, int64_t, int>;

Key KeyOf(Direction direction, const Unit& unit) {
  return {direction, unit.micro_batch, unit.slice, unit.layer};
}

// The units whose end a unit waits for.
std::vector<Key> Awaited(const ScheduleShape& shape, const UnitSpan& span) {
  const auto [m, s, l] = span.unit;
  std::vector<Key> keys;
  if (span.direction == Direction::kForward) {
    if (l > 0) keys.push_back(KeyOf(span.direction, {m, s, l - 1}));
    if (s > 0) keys.push_back(KeyOf(span.direction, {m, s - 1, l}));
  } else {
    keys.push_back(KeyOf(Direction::kForward, span.unit));
    if (l + 1 < shape.layers) keys.push_back(KeyOf(span.direction, {m, s, l + 1}));
    if (s + 1 < shape.slices) keys.push_back(KeyOf(span.direction, {m, s + 1, l}));
  }
  return keys;
}

// The order of a rank's units in one wavefront.
std::vector<UnitSpan> OrderOf(const ScheduleShape& shape, int rank) {
  std::vector<UnitSpan> order;
  for (const Direction direction : {Direction::kForward, Direction::kBackward}) {
    for (const PassUnit& step : PassOrder(shape, rank, direction)) {
      order.push_back({step.unit, direction});
    }
  }
  return order;
}

absl::Status CheckOrder(const ScheduleShape& shape, int rank, const std::vector<UnitSpan>& spans,
                        size_t wavefronts) {
  const std::vector<UnitSpan> order = OrderOf(shape, rank);
  if (spans.size() != wavefronts * order.size()) {
    return Internal("rank {} ran {} units, not {} x {}", rank, spans.size(), wavefronts,
                    order.size());
  }
  for (size_t i = 0; i < spans.size(); ++i) {
    const UnitSpan& due = order[i % order.size()];
    if (spans[i].unit != due.unit || spans[i].direction != due.direction) {
      return Internal("rank {} ran {} where {} was due", rank, Text(spans[i]), Text(due));
    }
    if (spans[i].end < spans[i].begin || (i > 0 && spans[i].begin < spans[i - 1].end)) {
      return Internal("rank {}: {} overlaps the one before", rank, Text(spans[i]));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::vector<UnitSpan>>> GatherTraces(Communicator& group,
                                                                const std::vector<UnitSpan>& own) {
  static_assert(std::is_trivially_copyable_v<UnitSpan>);
  const std::string_view bytes(reinterpret_cast<const char*>(own.data()),
                               own.size() * sizeof(UnitSpan));
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> all, group.AllGatherStrings(bytes));
  std::vector<std::vector<UnitSpan>> ranks;
  for (const std::string& text : all) {
    ranks.emplace_back(text.size() / sizeof(UnitSpan));
    if (!text.empty()) std::memcpy(ranks.back().data(), text.data(), text.size());
  }
  return ranks;
}

absl::Status CheckTraces(const ScheduleShape& shape,
                         const std::vector<std::vector<UnitSpan>>& ranks) {
  if (ranks.size() != static_cast<size_t>(shape.ranks) || ranks[0].empty()) {
    return Internal("{} traces of {} ranks", ranks.size(), shape.ranks);
  }
  const size_t units = OrderOf(shape, 0).size(), wavefronts = ranks[0].size() / units;
  std::vector<std::map<Key, int64_t>> ends(wavefronts);
  for (int rank = 0; rank < shape.ranks; ++rank) {
    MNEMO_RETURN_IF_ERROR(CheckOrder(shape, rank, ranks[rank], wavefronts));
    const size_t own = ranks[rank].size() / wavefronts;
    for (size_t i = 0; i < ranks[rank].size(); ++i) {
      const UnitSpan& span = ranks[rank][i];
      ends[i / own][KeyOf(span.direction, span.unit)] = span.end;
    }
  }
  for (const std::vector<UnitSpan>& spans : ranks) {
    for (size_t i = 0; i < spans.size(); ++i) {
      for (const Key& key : Awaited(shape, spans[i])) {
        if (spans[i].begin < ends[i / (spans.size() / wavefronts)].at(key)) {
          return Internal("{} began before what it reads was there", Text(spans[i]));
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace mnemo
