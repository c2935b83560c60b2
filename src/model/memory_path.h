// The way through the memory that every block with one shares: rows are projected to queries, keys,
// values and gates, the memory writes and reads, and the reads come back as rows.
#pragma once

#include "src/core/fused/memory_scan.h"
#include "src/model/block.h"

namespace mnemo {

// The rule's slow parameters of a layer.
MemoryParameters MemoryParametersOf(const ModelSpec& spec, const UnitParameters& p);

// What a memory's path through a slice begins with where there is no carry: W_0, S = 0 and zeros
// before the convolutions.
void BeginMemory(const ModelSpec& spec, const UnitParameters& p, const Var& x, Carry& carry);

// Gates [B, H, n, 1] of rows x [B, n, d], computed in WideType; eta, alpha undefined where the rule
// has none. H counts this rank's heads.
struct Gates {
  Var theta, eta, alpha;
};
Gates ComputeGates(const ModelSpec& spec, const UnitParameters& p, const Var& x);

// Writes and reads rows x [B, n, d] that begin `offset` tokens into the slice: y [B, n, own_width],
// this rank's heads side by side. The memory and convolution parts of `carry` advance. The probe's
// sums, if it is not null, are added to, weighted by rows; the caller divides.
Var WriteAndRead(const ModelSpec& spec, const UnitParameters& p, const Var& x, int64_t offset,
                 const SliceContext& context, Carry& carry, BlockProbe* probe);

}  // namespace mnemo
