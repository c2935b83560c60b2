// The kernels around the products of the fused op "gates" (gates.h). Plain C++.
#pragma once

#include <array>
#include <cstdint>

namespace mnemo::cuda {

struct Launch;

inline constexpr int kMaxGates = 4;
inline constexpr int kGateRows = 128;  // of a block, which leaves one share of the biases' gradient

// Columns of all gates together, gate by gate, with zeros up to a multiple of 8: products read 16
// bytes at a time.
struct GateShape {
  int gates = 0;
  int64_t batch = 0, tokens = 0, width = 0, heads = 0;
  constexpr int64_t columns() const { return (gates * heads + 7) / 8 * 8; }
  constexpr int64_t rows() const { return batch * tokens; }
  constexpr int64_t shares() const { return (rows() + kGateRows - 1) / kGateRows; }
};

// Of each gate.
template <typename T>
using PerGate = std::array<T, kMaxGates>;

// out [copies * columns, d] bf16: w1, w2 and, the third time, w1 again.
struct GateSplitCall {
  PerGate<const float*> weights;  // [H, d]
  int copies;
  void* out;
};
void SplitGateWeights(const Launch& launch, const GateShape& shape, const GateSplitCall& call);

// products [B T, 2 columns] f32 -> gates [B, H, T] f32.
struct GateValuesCall {
  const float* products;
  PerGate<const float*> biases;  // [H]
  PerGate<float> maxima;
  PerGate<float*> gates;
};
void GateValues(const Launch& launch, const GateShape& shape, const GateValuesCall& call);

// Gates and their gradients -> z1, z1, z2 [B T, 3 columns] bf16, and the sums of z' over every
// kGateRows rows, [shares, columns] f32.
struct GateGradientsCall {
  PerGate<const float*> gates, gradients;  // [B, H, T]
  PerGate<float> maxima;
  void* out;
  float* shares;
};
void GateGradients(const Launch& launch, const GateShape& shape, const GateGradientsCall& call);

}  // namespace mnemo::cuda
