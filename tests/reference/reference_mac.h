// Reference of the MAC mixer, segment by segment; X are the rows of the segment.
//
//   h = f_W(L2norm(SiLU(X W_r))), W before the segment
//   a = attention, queries from X; query i sees all persistent tokens, h_j and X_j for j <= i
//   y = the memory writes and reads with a as its input
//   out = (a o sigmoid(RMSNorm(y))) W_o
#pragma once

#include "tests/reference/reference_weights.h"

namespace mnemo::reference {

// x [T, d] is normalised already. Returns [T, d].
Matrix MacMixer(const BlockOptions& options, const BlockWeights& weights, const Matrix& x);

}  // namespace mnemo::reference
