#include "src/model/recall_task.h"

#include <algorithm>
#include <numeric>

#include "src/core/random.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

// `count` distinct numbers below `bound`, in random order; advances `next`.
std::vector<int64_t> Distinct(const RandomStream& stream, uint64_t& next, int64_t count,
                              int64_t bound) {
  std::vector<int64_t> all(bound);
  std::iota(all.begin(), all.end(), 0);
  for (int64_t i = 0; i < count; ++i) {
    const auto left = static_cast<uint64_t>(bound - i);
    std::swap(all[i], all[i + static_cast<int64_t>(stream.Below(next++, left))]);
  }
  all.resize(count);
  return all;
}

// First tokens of `pairs` two-token places in [begin, end), in random order.
std::vector<int64_t> Places(const RandomStream& stream, uint64_t& next, int pairs, int64_t begin,
                            int64_t end) {
  // Choosing among places with one token less for each pair before keeps them apart.
  std::vector<int64_t> places = Distinct(stream, next, pairs, end - begin - pairs);
  std::vector<int64_t> sorted = places;
  std::sort(sorted.begin(), sorted.end());
  for (int64_t& place : places) {
    place += begin + (std::lower_bound(sorted.begin(), sorted.end(), place) - sorted.begin());
  }
  return places;
}

}  // namespace

int64_t RecallShape::distance() const { return asked_from - shown_until; }

absl::StatusOr<RecallShape> CheckRecallShape(RecallShape shape) {
  if (shape.shown_until == 0) shape.shown_until = shape.length / 4;
  if (shape.asked_from == 0) shape.asked_from = shape.length / 2;
  if (shape.pairs < 1 || shape.pairs > shape.keys || shape.values < 1 || shape.distractors < 1) {
    return InvalidArgument(
        "recall: {} pairs need as many of the {} keys, and values and "
        "distractors to choose from",
        shape.pairs, shape.keys);
  }
  if (2 * shape.pairs > shape.shown_until || shape.asked_from < shape.shown_until ||
      shape.asked_from + 2 * shape.pairs > shape.length) {
    return InvalidArgument(
        "recall: {} pairs do not fit in tokens [0, {}) and their questions in [{}, {}); use a "
        "longer sequence or fewer pairs",
        shape.pairs, shape.shown_until, shape.asked_from, shape.length);
  }
  return shape;
}

RecallBatch MakeRecallBatch(const RecallShape& shape, int64_t batch, uint64_t seed, uint64_t step) {
  const RandomStream stream(seed, step, "recall");
  RecallBatch data;
  data.tokens.resize(batch * shape.length);
  data.targets.assign(batch * shape.length, -1);
  uint64_t next = 0;
  for (int64_t b = 0; b < batch; ++b) {
    int32_t* tokens = &data.tokens[b * shape.length];
    int32_t* targets = &data.targets[b * shape.length];
    const int32_t first_value = shape.keys, first_distractor = shape.keys + shape.values;
    for (int64_t t = 0; t < shape.length; ++t) {
      tokens[t] = first_distractor + static_cast<int32_t>(stream.Below(next++, shape.distractors));
    }
    const std::vector<int64_t> keys = Distinct(stream, next, shape.pairs, shape.keys);
    const std::vector<int64_t> shown = Places(stream, next, shape.pairs, 0, shape.shown_until);
    const std::vector<int64_t> asked =
        Places(stream, next, shape.pairs, shape.asked_from, shape.length);
    for (int i = 0; i < shape.pairs; ++i) {
      const auto key = static_cast<int32_t>(keys[i]);
      const auto value = first_value + static_cast<int32_t>(stream.Below(next++, shape.values));
      tokens[shown[i]] = tokens[asked[i]] = key;
      tokens[shown[i] + 1] = tokens[asked[i] + 1] = value;
      targets[asked[i]] = value;
    }
  }
  return data;
}

}  // namespace mnemo
