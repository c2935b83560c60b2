#include "src/model/carry.h"

#include <algorithm>

namespace mnemo {

Carry CarryLayout(const ModelSpec& spec, int64_t position) {
  Carry carry;
  if (spec.has_memory()) carry.memory.open.count = position % spec.rule.chunk;
  if (spec.block == BlockKind::kMac) carry.segment.count = position % spec.segment;
  if (spec.has_window()) {
    carry.window_rows = spec.window == 0 ? position : std::min(position, spec.window - 1);
  }
  return carry;
}

std::vector<Var> FlattenCarry(const ModelSpec& spec, Carry& carry) {
  std::vector<Var> list;
  ForEachVar(spec, carry, [&list](Var& x) { list.push_back(x); });
  return list;
}

Carry UnflattenCarry(const ModelSpec& spec, int64_t position, std::span<const Var> list) {
  Carry carry = CarryLayout(spec, position);
  size_t next = 0;
  ForEachVar(spec, carry, [&](Var& x) {
    MNEMO_CHECK(next < list.size(), "a carry of {} tensors is too short", list.size());
    x = list[next++];
  });
  MNEMO_CHECK(next == list.size(), "a carry of {} tensors, {} expected", list.size(), next);
  return carry;
}

int64_t CarryBytes(const ModelSpec& spec, int64_t batch, DType dtype) {
  int64_t state = 0, rows = 0;  // elements
  if (spec.has_memory()) {
    for (int i = 0; i < spec.rule.depth; ++i) {
      const int64_t out = spec.rule.out_dim(i);
      state += spec.own_heads() * out * (spec.rule.in_dim(i) + (spec.rule.biases ? 1 : 0));
    }
    if (spec.rule.momentum) state *= 2;
    rows += 3 * 3 * spec.own_width();  // before the three convolutions
  }
  if (spec.has_window() && spec.window > 0) rows += 2 * (spec.window - 1) * spec.own_width();
  return batch * (state * SizeOf(WideType(dtype)) + rows * SizeOf(dtype));
}

}  // namespace mnemo
