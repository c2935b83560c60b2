// The carry: everything that crosses a slice boundary, per layer. Nothing else does.
//
// B sequences, H heads, f head dim, d width (H and d of what this rank holds). Which parts exist
// follows from the model and from how many tokens have gone before; ForEachVar visits those that
// do, in one fixed order, so that a carry can be flattened to be sent, kept, differentiated or
// saved.
#pragma once

#include <span>
#include <vector>

#include "src/core/fused/memory_rule.h"
#include "src/model/spec.h"

namespace mnemo {

// MAC: the segment that a slice has left open (generation and evaluation only).
struct OpenSegment {
  int64_t count = 0;           // tokens, < segment
  MemoryWeights first;         // W before the segment: [B, H, out, in], ..
  Var keys, values;            // [B, H, count, f] of the segment's rows
  Var read_keys, read_values;  // [B, H, count, f] of their h
};

struct Carry {
  MemoryState memory;          // blocks with a memory; of WideType
  Var conv_q, conv_k, conv_v;  // [B, 3, d] rows before the convolutions
  int64_t window_rows = 0;     // tokens whose keys and values are kept
  Var keys, values;            // [B, H, window_rows, f], rotated; absent if window_rows == 0
  OpenSegment segment;         // MAC
};

template <typename F>
void ForEachVar(const ModelSpec& spec, Carry& carry, F&& f) {
  if (spec.has_memory()) {
    ForEachVar(spec.rule, carry.memory, f);
    f(carry.conv_q);
    f(carry.conv_k);
    f(carry.conv_v);
  }
  if (carry.window_rows > 0) {
    f(carry.keys);
    f(carry.values);
  }
  if (carry.segment.count > 0) {
    ForEachVar(spec.rule, carry.segment.first, f);
    f(carry.segment.keys);
    f(carry.segment.values);
    f(carry.segment.read_keys);
    f(carry.segment.read_values);
  }
}

// The carry's structure after `position` tokens, its Vars still undefined: how many tokens an open
// chunk, segment or window holds is a function of the position alone.
Carry CarryLayout(const ModelSpec& spec, int64_t position);
// A carry as a flat list and back.
std::vector<Var> FlattenCarry(const ModelSpec& spec, Carry& carry);
Carry UnflattenCarry(const ModelSpec& spec, int64_t position, std::span<const Var> list);

// Bytes of this rank's part of one layer's carry at a slice boundary of a long sequence (a multiple
// of the alignment, window full), for activations of `dtype`. The memory's state is
// WideType(dtype): it is a sum over all tokens so far.
int64_t CarryBytes(const ModelSpec& spec, int64_t batch, DType dtype);

}  // namespace mnemo
