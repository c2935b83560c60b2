// One chunk of the memory scan, composed of primitives: the body of memory_scan.cc's loop.
#pragma once

#include "src/core/fused/memory_scan.h"

namespace mnemo {

// Runs tokens of one chunk (those that a call holds of it: they extend state.open) and returns
// their reads [B, H, n, f]. When the chunk is full, `state` becomes the state after it. Adds the
// number of clamped gradients to `clamp_hits` ([], undefined before the first).
Var ScanChunk(const MemoryRule& rule, const MemoryParameters& parameters,
              const MemoryTokens& tokens, MemoryState& state, Tensor& clamp_hits);

}  // namespace mnemo
