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

// Queries of a block of a window: no fewer than the older keys that the first of them sees, so that
// only neighbours share keys.
int64_t BlockOf(int64_t window) {
  constexpr int64_t kMultiple = 128;
  return (window - 1 + kMultiple - 1) / kMultiple * kMultiple;
}

BackwardPlan PlanWindow(const Shape& q, const AttentionPart& part, int64_t queries,
                        bool deterministic, int64_t limit) {
  const int64_t older = part.window - 1, before = part.rows - q[2];
  BackwardPlan plan{.sequences = 1, .heads = q[1], .blocks = {}};
  int64_t begin = 0;
  if (before < older) {  // what comes before the first block's queries is shorter
    begin = queries;
    plan.blocks.push_back({0, queries, 1, 0, before + queries});
  }
  int64_t whole = (q[2] - begin) / queries, at_a_time = whole;
  if (deterministic) {
    const int64_t fit = std::max<int64_t>(1, limit / SdpaScoreBytes(queries, older + queries));
    plan.heads = EvenPiece(q[1], std::max<int64_t>(1, fit / std::max<int64_t>(whole, 1)));
    at_a_time = std::min(whole, fit);
  }
  for (; whole > 0; whole -= at_a_time) {
    at_a_time = std::min(at_a_time, whole);
    plan.blocks.push_back({begin, queries, at_a_time, before + begin - older, older + queries});
    begin += at_a_time * queries;
  }
  const int64_t rest = q[2] - begin;
  if (rest > 0) plan.blocks.push_back({begin, rest, 1, before + begin - older, older + rest});
  return plan;
}

// What cuDNN works through for a head, in products over a pair of query and key: of the five of the
// backward pass it leaves out what is hidden if there are as many keys as queries, except, in a
// fixed order, that of the scores' gradients with the keys. Otherwise it leaves out nothing.
double PairProducts(int64_t queries, int64_t keys, int64_t window, bool deterministic) {
  const auto q = static_cast<double>(queries);
  const double all = q * static_cast<double>(keys);
  if (keys != queries) return 5 * all;
  const auto w = static_cast<double>(std::min(window, queries));
  const double seen = q * w - w * (w - 1) / 2;
  return 4 * seen + (deterministic ? all : seen);
}

// Whether a window had better be cut. A cut moves keys and their gradients once more and makes
// shorter calls, which took 1.3 to 1.7 times as long for what they work through (H200, windows of
// 512 and 2,048).
bool CutPays(const BackwardPlan& cut, int64_t queries, const AttentionPart& part,
             bool deterministic) {
  double products = 0;
  for (const QueryBlocks& block : cut.blocks) {
    products += static_cast<double>(block.blocks) *
                PairProducts(block.queries, block.keys, part.window, deterministic);
  }
  return 1.5 * products < PairProducts(queries, part.rows, part.window, deterministic);
}

// Of one head, so many that the scores fit, but never fewer than some.
std::vector<QueryBlocks> CutQueries(int64_t queries, const AttentionPart& part, int64_t limit) {
  constexpr int64_t kMultiple = 128;
  const int64_t some =
      kMultiple * std::max<int64_t>(1, limit / SdpaScoreBytes(kMultiple, part.rows));
  const int64_t before = part.rows - queries;
  std::vector<QueryBlocks> blocks;
  for (int64_t begin = 0; begin < queries; begin += some) {
    const int64_t end = std::min(queries, begin + some);
    const int64_t first =
        part.window > 0 ? std::max<int64_t>(0, before + begin - part.window + 1) : 0;
    blocks.push_back({begin, end - begin, 1, first, before + end - first});
  }
  return blocks;
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

BackwardPlan PlanBackward(const Shape& q, const AttentionPart& part, bool deterministic,
                          int64_t limit) {
  if (part.causal && part.window > 1) {
    const int64_t queries = BlockOf(part.window);
    if (q[2] > queries) {
      BackwardPlan cut = PlanWindow(q, part, queries, deterministic, limit);
      if (CutPays(cut, q[2], part, deterministic)) return cut;
    }
  }
  const int64_t sequences = q[0], heads = q[1], queries = q[2], keys = part.rows;
  const QueryBlocks all{.query = 0, .queries = queries, .blocks = 1, .key = 0, .keys = keys};
  const int64_t fit = limit / SdpaScoreBytes(queries, keys);
  if (!deterministic || fit >= sequences * heads) return {sequences, heads, {all}};
  if (fit >= heads) return {EvenPiece(sequences, fit / heads), heads, {all}};
  if (fit >= 1 || !part.causal) return {1, EvenPiece(heads, std::max<int64_t>(fit, 1)), {all}};
  return {1, 1, CutQueries(queries, part, limit), true};
}

}  // namespace mnemo::cuda
