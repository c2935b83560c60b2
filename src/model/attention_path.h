// Attention's way through a block: projections, rotary positions, persistent tokens and the window
// of keys and values in the carry.
#pragma once

#include "src/core/fused/attention.h"
#include "src/core/fused/layers.h"
#include "src/model/block.h"

namespace mnemo {

// x w^T, heads split: [B, n, d] -> [B, H, n, f]. H counts this rank's heads, here and below.
Var ProjectHeads(const ModelSpec& spec, const UnitParameters& p, const char* name, const Var& x);

// Rotary tables for the rows of a slice of `batch` sequences; positions count from the start of
// each token's document. Made on the host. Undefined where the model has no attention.
RotaryTables MakeSliceRotary(const ModelSpec& spec, const SliceContext& context, int64_t batch,
                             DType dtype, Device device);
// The context's own, or made for rows x [B, n, d].
RotaryTables SliceRotary(const ModelSpec& spec, const SliceContext& context, const Var& x);

// Keys and values of the persistent tokens, [1, H, P, f], unrotated; undefined without any.
struct PersistentKeys {
  Var k, v;
};
PersistentKeys ProjectPersistent(const ModelSpec& spec, const UnitParameters& p);

// Sliding-window (window 0: full) causal attention of rows x [B, n, d], heads concatenated:
// [B, n, own_width]. The window's keys and values in `carry` advance.
Var WindowAttention(const ModelSpec& spec, const UnitParameters& p, const Var& x,
                    const SliceContext& context, Carry& carry);

}  // namespace mnemo
