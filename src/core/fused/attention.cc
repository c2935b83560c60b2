#include "src/core/fused/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/core/fused/fused_ops.h"
#include "src/core/ops.h"

namespace mnemo {
namespace {

// Queries taken at once, and how many such blocks may keep their probabilities for the backward
// pass; beyond, each block is run again for its derivative.
constexpr int64_t kQueryBlock = 128;
constexpr int64_t kBlocksKept = 4;

// The rows of a run that some query of a block at positions [begin, end) may see.
struct Range {
  int64_t begin, end;  // rows of the run
};

struct Block {
  int64_t begin = 0, end = 0;  // queries
  std::vector<Range> ranges;   // per run
};

Block PlanBlock(const AttentionAttributes& attributes, std::span<const int64_t> lengths,
                int64_t begin, int64_t end) {
  const AttentionMask& mask = attributes.mask;
  const int64_t first = mask.first_position + begin, last = mask.first_position + end - 1;
  const int64_t lowest = mask.window > 0 ? first - mask.window + 1 : 0;
  Block block{begin, end, {}};
  for (size_t i = 0; i < lengths.size(); ++i) {
    const int64_t start = attributes.run_positions[i];
    const int64_t from = std::clamp<int64_t>(lowest - start, 0, lengths[i]);
    block.ranges.push_back({from, std::clamp<int64_t>(last + 1 - start, from, lengths[i])});
  }
  return block;
}

// Whether two blocks have one bias: the same rows and ranges, counted from the first query.
bool SameBias(const AttentionAttributes& attributes, const Block& a, const Block& b) {
  // Without a window the sequence's start is a limit that does not move along.
  if (attributes.mask.window == 0 || !attributes.mask.starts.empty()) return false;
  if (a.end - a.begin != b.end - b.begin) return false;
  for (size_t i = 0; i < a.ranges.size(); ++i) {
    if (a.ranges[i].end - a.ranges[i].begin != b.ranges[i].end - b.ranges[i].begin) return false;
    const bool empty = a.ranges[i].begin == a.ranges[i].end;
    if (!empty && a.ranges[i].begin - a.begin != b.ranges[i].begin - b.begin) return false;
  }
  return true;
}

// 0 where a query sees a key and -infinity where it does not: [B or 1, 1, queries, keys].
Tensor Bias(const AttentionAttributes& attributes, const Block& block, int64_t batch,
            int64_t queries_total, int64_t persistent, const Var& like) {
  const AttentionMask& mask = attributes.mask;
  const int64_t rows = block.end - block.begin;
  int64_t keys = persistent;
  for (const Range& range : block.ranges) keys += range.end - range.begin;
  const int64_t copies = mask.starts.empty() ? 1 : batch;
  std::vector<float> bias(copies * rows * keys, 0.0f);
  for (int64_t b = 0; b < copies; ++b) {
    for (int64_t t = 0; t < rows; ++t) {
      const int64_t position = mask.first_position + block.begin + t;
      int64_t lowest = mask.window > 0 ? position - mask.window + 1 : 0;
      if (!mask.starts.empty()) {
        lowest = std::max(lowest, mask.starts[b * queries_total + block.begin + t]);
      }
      float* row = &bias[(b * rows + t) * keys + persistent];
      for (size_t i = 0; i < block.ranges.size(); ++i) {
        const int64_t first = attributes.run_positions[i] + block.ranges[i].begin;
        const int64_t count = block.ranges[i].end - block.ranges[i].begin;
        const int64_t from = std::clamp<int64_t>(lowest - first, 0, count);
        const int64_t to = std::clamp<int64_t>(position + 1 - first, from, count);
        std::fill(row, row + from, -std::numeric_limits<float>::infinity());
        std::fill(row + to, row + count, -std::numeric_limits<float>::infinity());
        row += count;
      }
    }
  }
  return Tensor::FromHost(bias, {copies, 1, rows, keys}, WideType(like.dtype()), like.device());
}

Var Spread(const Var& x, int64_t batch) {
  Shape shape = x.shape();
  shape[0] = batch;
  return BroadcastTo(x, shape);
}

// inputs: q of the block, persistent k and v if any, then k and v of each run's visible rows.
std::vector<Var> RunBlock(std::span<const Var> inputs, const Tensor& bias, bool persistent) {
  const Var& q = inputs[0];
  std::vector<Var> keys, values;
  size_t next = 1;
  if (persistent) {
    keys.push_back(Spread(inputs[next++], q.dim(0)));
    values.push_back(Spread(inputs[next++], q.dim(0)));
  }
  while (next < inputs.size()) {
    keys.push_back(inputs[next++]);
    values.push_back(inputs[next++]);
  }
  const double scale = 1 / std::sqrt(static_cast<double>(q.dim(-1)));
  const Var scores = WideMatMul(q, Transpose(Concat(keys, 2)), scale);
  const Var seen = Concat(values, 2);
  return {MatMul(Cast(Softmax(Add(scores, Var(bias))), seen.dtype()), seen)};
}

std::vector<Var> Compose(std::span<const Var> inputs, const AttentionAttributes& attributes) {
  const Var& q = inputs[0];
  const int64_t count = q.dim(2), first_run = attributes.persistent ? 3 : 1;
  std::vector<int64_t> lengths;
  for (size_t i = first_run; i < inputs.size(); i += 2) lengths.push_back(inputs[i].dim(2));
  const bool rematerialize = count > kQueryBlock * kBlocksKept;
  std::vector<Var> outputs;
  Tensor bias;
  Block previous;
  for (int64_t begin = 0; begin < count; begin += kQueryBlock) {
    const Block block = PlanBlock(attributes, lengths, begin, std::min(count, begin + kQueryBlock));
    if (begin == 0 || !SameBias(attributes, previous, block)) {
      bias =
          Bias(attributes, block, q.dim(0), count, attributes.persistent ? inputs[1].dim(2) : 0, q);
    }
    previous = block;
    std::vector<Var> parts{Slice(q, 2, block.begin, block.end)};
    if (attributes.persistent) parts.insert(parts.end(), {inputs[1], inputs[2]});
    for (size_t i = 0; i < lengths.size(); ++i) {
      const Range& range = block.ranges[i];
      if (range.begin == range.end) continue;
      parts.push_back(Slice(inputs[first_run + 2 * i], 2, range.begin, range.end));
      parts.push_back(Slice(inputs[first_run + 2 * i + 1], 2, range.begin, range.end));
    }
    const auto body = [bias, persistent = attributes.persistent](std::span<const Var> x) {
      return RunBlock(x, bias, persistent);
    };
    outputs.push_back(rematerialize ? Rematerialized(body, parts)[0] : body(parts)[0]);
  }
  return {Concat(outputs, 2)};
}

// Listed from the start of the program, not from the first call.
[[maybe_unused]] const FusedOpBase& attention_op = AttentionOp();

}  // namespace

FusedOp<AttentionAttributes>& AttentionOp() {
  static FusedOp<AttentionAttributes> op("attention", &Compose);
  return op;
}

Var Attention(const Var& q, const Var& persistent_k, const Var& persistent_v,
              const std::vector<KeyRun>& runs, const AttentionMask& mask) {
  Require(q.rank() == 4, "attention: q has shape {}", q.shape());
  Require(mask.starts.empty() || static_cast<int64_t>(mask.starts.size()) == q.dim(0) * q.dim(2),
          "attention: {} document starts for queries {}", mask.starts.size(), q.shape());
  AttentionAttributes attributes{mask, persistent_k.defined(), {}};
  std::vector<Var> inputs{q};
  if (persistent_k.defined()) inputs.insert(inputs.end(), {persistent_k, persistent_v});
  for (const KeyRun& run : runs) {
    Require(run.k.shape() == run.v.shape() && run.k.dim(-1) == q.dim(-1),
            "attention: keys {} and values {} for queries {}", run.k.shape(), run.v.shape(),
            q.shape());
    inputs.insert(inputs.end(), {run.k, run.v});
    attributes.run_positions.push_back(run.first_position);
  }
  return AttentionOp()(inputs, attributes)[0];
}

}  // namespace mnemo
