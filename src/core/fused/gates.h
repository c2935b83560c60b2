// Gates of a memory's heads: numbers between 0 and a maximum for every token and head.
#pragma once

#include <span>
#include <vector>

#include "src/core/tape.h"

namespace mnemo {

struct GateWeights {
  Var weight, bias;  // [H, d] and [H], in WideType of the rows
  double maximum = 1;
};

// maximum * sigmoid(x weight^T + bias) of each gate, [B, H, T, 1] in WideType, for rows x [B, T,
// d]. Fused op "gates".
std::vector<Var> HeadGates(const Var& x, std::span<const GateWeights> gates);

}  // namespace mnemo
