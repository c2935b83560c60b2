// The memory rule token by token on Vars: the definition that the chunk form is compared with. The
// inner gradient is taken by the tape, so that the outer derivative is the tape's second. Shares
// nothing with the chunk form but the structures it is called with.
#pragma once

#include "src/core/fused/memory_scan.h"

namespace mnemo::testing {

struct NaiveMemoryResult {
  Var y;              // [B, H, T, f]
  MemoryState state;  // at the last chunk boundary; its open part is empty
};

// All weights of `state` must be tracked on `tape`. Begins a chunk with its first token.
NaiveMemoryResult NaiveMemory(Tape& tape, const MemoryRule& rule,
                              const MemoryParameters& parameters, const MemoryTokens& tokens,
                              const MemoryState& state, const Tensor& resets = {});

}  // namespace mnemo::testing
