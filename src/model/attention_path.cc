#include "src/model/attention_path.h"

#include <algorithm>

#include "src/core/ops.h"
#include "src/model/tensor_split.h"

namespace mnemo {

Var ProjectHeads(const ModelSpec& spec, const UnitParameters& p, const char* name, const Var& x) {
  return SplitHeads(MatMul(x, Transpose(p.Get(name))), spec.own_heads());
}

RotaryTables MakeSliceRotary(const ModelSpec& spec, const SliceContext& context, int64_t batch,
                             DType dtype, Device device) {
  if (!spec.has_attention()) return {};
  const int64_t rows = context.length, copies = context.starts.empty() ? 1 : batch;
  std::vector<int64_t> positions(copies * rows);
  for (int64_t i = 0; i < copies * rows; ++i) {
    const int64_t start = context.starts.empty() ? 0 : context.starts[i];
    positions[i] = context.position + i % rows - start;
  }
  return MakeRotaryTables(positions, copies, spec.head_dim(), spec.rope_base, dtype, device);
}

RotaryTables SliceRotary(const ModelSpec& spec, const SliceContext& context, const Var& x) {
  if (context.rotary.cos.defined()) return context.rotary;
  return MakeSliceRotary(spec, context, x.dim(0), x.dtype(), x.device());
}

PersistentKeys ProjectPersistent(const ModelSpec& spec, const UnitParameters& p) {
  const Var tokens = IntoParts(spec, p.Get("attention.persistent"));  // read by all heads
  if (!tokens.defined()) return {};
  const Var rows = Reshape(tokens, {1, tokens.dim(0), tokens.dim(1)});
  return {ProjectHeads(spec, p, "attention.k.weight", rows),
          ProjectHeads(spec, p, "attention.v.weight", rows)};
}

Var WindowAttention(const ModelSpec& spec, const UnitParameters& p, const Var& x,
                    const SliceContext& context, Carry& carry) {
  const int64_t rows = x.dim(1), kept = carry.window_rows;
  const RotaryTables tables = SliceRotary(spec, context, x);
  const Var q = Rotate(ProjectHeads(spec, p, "attention.q.weight", x), tables);
  const Var k = Rotate(ProjectHeads(spec, p, "attention.k.weight", x), tables);
  const Var v = ProjectHeads(spec, p, "attention.v.weight", x);
  const PersistentKeys persistent = ProjectPersistent(spec, p);
  std::vector<KeyRun> runs;
  if (kept > 0) runs.push_back({carry.keys, carry.values, context.position - kept});
  runs.push_back({k, v, context.position});
  const Var y = Attention(q, persistent.k, persistent.v, runs,
                          {context.position, spec.window, context.starts});
  // The next slice sees at most window - 1 tokens before its first.
  const int64_t total = kept + rows;
  const int64_t keep = spec.window == 0 ? total : std::min(total, spec.window - 1);
  const auto last = [&](const Var& before, const Var& now) {
    if (keep <= rows) return Slice(now, 2, rows - keep, rows);
    const Var parts[] = {Slice(before, 2, total - keep, kept), now};
    return Concat(parts, 2);
  };
  if (keep > 0) {
    carry.keys = last(carry.keys, k);
    carry.values = last(carry.values, v);
  }
  carry.window_rows = keep;
  return MergeHeads(y);
}

}  // namespace mnemo
