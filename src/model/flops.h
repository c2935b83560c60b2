// What a model costs to run, in floating-point operations: multiply-add = 2. Only matrix products
// (and the four taps of the convolutions) are counted; norms, activations, softmax and the
// optimizer are not.
#pragma once

#include <cstdint>

#include "src/model/spec.h"

namespace mnemo {

// Forward, per token, all layers.
struct ForwardFlops {
  double linear = 0;     // projections, gates, convolutions, MLP, head
  double attention = 0;  // scores and weighted sums over the keys that a token sees on average
  double memory = 0;     // keys, reads and state of the memory rule
  double total() const { return linear + attention + memory; }
};

// Averages over the positions of sequences of `sequence_length` tokens.
ForwardFlops CountForwardFlops(const ModelSpec& spec, int64_t sequence_length);

// A training step per token: forward once, backward twice as much. What rematerialization runs
// again is not counted: it is the implementation's, not the model's.
inline double ModelFlops(const ForwardFlops& forward) { return 3 * forward.total(); }

// The memory rule per token and head, forward. With s = sum over layers of in * out and
// r = sum of in + out:
//   keys 2 s, deltas 2 (s - in_1 out_1), reads 2 s and 2 b r, state 2 s;
//   momentum reads and updates S: another 4 s; forgetting towards W_0 reads and adds it: 4 s.
// At depth 2 and hidden width 4 f with momentum: 88 f^2 + 20 b f.
double MemoryFlopsPerHead(const MemoryRule& rule);

}  // namespace mnemo
