// Reference of attention: causal, windowed or full, with persistent tokens and RoPE.
//
// Scores q.k / sqrt(f) per head, softmax over everything that the query sees. RoPE turns the pair
// (i, i + f/2) of a head by the angle position * base^(-2i/f), formed in double.
#pragma once

#include <vector>

#include "tests/reference/reference_weights.h"

namespace mnemo::reference {

// Rows that give keys (row ak^T) and values (row av^T).
struct KeyRows {
  Matrix rows;  // [N, d]
  // true: seen by every query, never turned. false: row j belongs to the query row j, has its
  // position and is seen by query i where j <= i and (no window or i - j < window).
  bool persistent = false;
};

// x [T, d] gives the queries (x aq^T); its row 0 is at `first_position`. Returns the heads'
// outputs concatenated, before any output projection: [T, d].
Matrix Attention(const BlockOptions& options, const BlockWeights& weights, const Matrix& x,
                 const std::vector<KeyRows>& keys, int window, int first_position);

// TRANSFORMER: attention over [persistent | x], then W_o. x [T, d] is normalised already.
Matrix TransformerMixer(const BlockOptions& options, const BlockWeights& weights, const Matrix& x);

}  // namespace mnemo::reference
