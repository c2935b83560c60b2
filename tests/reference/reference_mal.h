// Reference of the MAL mixer: the memory, then attention.
//
//   m = (RMSNorm(y) o SiLU(x W_g)) W_m;  out = (windowed attention over [persistent | m]) W_o
//   Queries, keys and values of the attention all come from m.
#pragma once

#include "tests/reference/reference_weights.h"

namespace mnemo::reference {

// x [T, d] is normalised already. Returns [T, d].
Matrix MalMixer(const BlockOptions& options, const BlockWeights& weights, const Matrix& x);

}  // namespace mnemo::reference
