// A block: (x, carry in) -> (y, carry out), a pure function of a slice and of what has been carried
// into it. One function per kind of mixer; all share norms and MLP:
//   x += Mixer(RMSNorm(x)); x += SwiGLU(RMSNorm(x)).
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "src/core/fused/layers.h"
#include "src/core/fused/memory_scan.h"
#include "src/model/carry.h"
#include "src/model/parameters.h"

namespace mnemo {

// Where a slice lies in its sequence. The same for all layers.
struct SliceContext {
  int64_t position = 0;  // tokens of the sequence before the slice
  int64_t length = 0;    // n, tokens of the slice
  // Where documents begin inside the sequences of this batch (document_reset: CHUNK); both empty
  // or undefined otherwise.
  std::vector<int64_t> starts;  // [B * n] position at which each token's document began
  Tensor resets;                // [B, chunks that begin in the slice], 0 or 1, WideType
  // Made once for all layers (SliceRotary), or undefined: each makes its own.
  RotaryTables rotary = {};
};

// Means over the tokens and heads of a block call, for the metrics.
struct BlockStatistics {
  double theta = 0, eta = 0, alpha = 0;  // mean gates; 0 where the rule has none
  double state_norm = 0;                 // |W| after the slice, mean over sequences and heads
  int64_t clamp_hits = 0;
};
inline constexpr int64_t kStatistics = 5;

// What a block call tells beside its result. It stays on the device, since reading it would wait.
struct BlockProbe {
  Tensor numbers;  // f64 [kStatistics], BlockStatistics' in their order; undefined without a memory
  // If set, called with what the memory is given, a run of tokens at a time, in their order.
  std::function<void(const MemoryTokens&)> memory_tokens;

  // Sums over what has run so far, [], while the call lasts: gates weighted by rows.
  Tensor theta, eta, alpha, clamp_hits;
};

struct BlockResult {
  Var y;  // [B, n, d]
  Carry carry;
};

// Runs layer parameters `p` on x [B, n, d]. No carry: the slice begins the sequence. Throws
// TensorError. `probe`, if not null, is filled in (at some cost). Where the model is split
// (tensor_split.h) x, y and the probe's numbers are the same on all ranks, of which all make the
// call; the carry is of this rank's heads.
BlockResult RunBlock(const ModelSpec& spec, const UnitParameters& p, const Var& x,
                     const std::optional<Carry>& carry, const SliceContext& context,
                     BlockProbe* probe = nullptr);

}  // namespace mnemo
