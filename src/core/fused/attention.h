// Softmax attention over runs of consecutive tokens and persistent keys: the fused op "attention".
#pragma once

#include <vector>

#include "src/core/tape.h"

namespace mnemo {

// Keys and values of consecutive tokens, first_position, first_position + 1, ...
struct KeyRun {
  Var k, v;  // [B, H, n, f]
  int64_t first_position = 0;
};

// Which tokens a query may see. The query at position p of sequence b sees the tokens of every run
// at positions [max(p - window + 1, starts[b][p - first_position]), p], and all persistent keys.
struct AttentionMask {
  int64_t first_position = 0;   // of the first query
  int64_t window = 0;           // tokens seen, the query's own included; 0: no limit
  std::vector<int64_t> starts;  // [B * T] position where each query's document began; empty: 0
};

// q [B, H, T, f] -> [B, H, T, f], scores scaled by 1 / sqrt(f). persistent_k, persistent_v
// [1, H, P, f] are visible to every query, or undefined. Each query must see at least one key. All
// have one dtype; for bf16, scores and their softmax are f32 and the probabilities are rounded
// before they multiply the values.
Var Attention(const Var& q, const Var& persistent_k, const Var& persistent_v,
              const std::vector<KeyRun>& runs, const AttentionMask& mask);

}  // namespace mnemo
