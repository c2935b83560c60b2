#include <algorithm>
#include <limits>

#include "src/core/cuda/attention.h"

namespace mnemo::cuda {
namespace {

// Whether the start of some query's document hides keys that the window would show.
bool DocumentsMatter(const Tensor& q, const AttentionAttributes& attributes) {
  const AttentionMask& mask = attributes.mask;
  if (mask.starts.empty()) return false;
  int64_t first = std::numeric_limits<int64_t>::max();
  for (const int64_t position : attributes.run_positions) first = std::min(first, position);
  for (size_t i = 0; i < mask.starts.size(); ++i) {
    const int64_t position = mask.first_position + static_cast<int64_t>(i) % q.dim(2);
    const int64_t lowest = mask.window > 0 ? std::max(first, position - mask.window + 1) : first;
    if (mask.starts[i] > lowest) return true;
  }
  return false;
}

// The size of the fewest pieces of `count` that are no larger than `most`.
int64_t EvenPiece(int64_t count, int64_t most) {
  if (most >= count) return count;
  const int64_t pieces = (count + most - 1) / most;
  return (count + pieces - 1) / pieces;
}

}  // namespace

std::optional<std::vector<AttentionPart>> PlanAttention(std::span<const Tensor> inputs,
                                                        const AttentionAttributes& attributes) {
  const Tensor& q = inputs[0];
  if (DocumentsMatter(q, attributes)) return std::nullopt;
  const int64_t end = attributes.mask.first_position + q.dim(2);
  std::vector<AttentionPart> parts;
  size_t next = 1;
  if (attributes.persistent) {
    parts.push_back({.keys = {1}, .rows = inputs[1].dim(2), .causal = false});
    next = 3;
  }
  int64_t run_end = std::numeric_limits<int64_t>::min();  // position after the last part's keys
  for (const int64_t position : attributes.run_positions) {
    const int64_t rows = inputs[next].dim(2);
    if (position != run_end) parts.emplace_back();
    parts.back().keys.push_back(next);
    parts.back().rows += rows;
    run_end = position + rows;
    next += 2;
    // What does not reach the last query must go on in the next run.
    const bool goes_on =
        next < inputs.size() &&
        attributes.run_positions[(next - (attributes.persistent ? 3 : 1)) / 2] == run_end;
    if (!goes_on && (run_end != end || parts.back().rows < q.dim(2))) return std::nullopt;
  }
  for (AttentionPart& part : parts) {
    const bool limited = part.causal && attributes.mask.window > 0;
    if (limited && attributes.mask.window < part.rows) part.window = attributes.mask.window;
  }
  return parts;
}

BackwardPiece PieceOfBackward(const Shape& q, int64_t keys, int64_t limit) {
  const int64_t sequences = q[0], heads = q[1], queries = q[2];
  const int64_t row = 2 * keys;  // bytes that a query takes
  const int64_t fit = limit / (row * queries);
  if (fit >= heads) return {EvenPiece(sequences, fit / heads), heads, queries};
  if (fit >= 1) return {1, EvenPiece(heads, fit), queries};
  constexpr int64_t kMultiple = 128;
  return {1, 1, std::max(kMultiple, limit / row / kMultiple * kMultiple)};
}

}  // namespace mnemo::cuda
