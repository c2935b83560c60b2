// Reference of the MAG mixer: the memory gates attention.
//
//   a = windowed attention over [persistent | x];  y = the memory's raw read of x
//   out = (RMSNorm_1(a) o sigmoid(RMSNorm_2(y))) W_o      RMSNorm_1: attn_norm, _2: read_norm
#pragma once

#include "tests/reference/reference_weights.h"

namespace mnemo::reference {

// x [T, d] is normalised already. Returns [T, d].
Matrix MagMixer(const BlockOptions& options, const BlockWeights& weights, const Matrix& x);

}  // namespace mnemo::reference
