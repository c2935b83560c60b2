// The small fused ops of a block: norms, gated products, convolution, rotation.
//
// Rows are tokens: x [..., T, d]. Per-head variants see a row of d as [H, f]. Rows of bf16 are
// computed with in f32 and rounded once, at the end; weights and tables are f32 then.
#pragma once

#include <vector>

#include "src/core/tape.h"

namespace mnemo {

// x / sqrt(mean(x^2) + epsilon) * weight over each of `heads` equal parts of the last dim;
// x [..., d], weight [d]. Fused op "rms_norm". (Zhang and Sennrich, arXiv 1910.07467.)
Var RmsNorm(const Var& x, const Var& weight, int64_t heads, double epsilon);

// x / sqrt(sum(x^2) + epsilon) over each of `heads` equal parts of the last dim.
Var L2Norm(const Var& x, int64_t heads, double epsilon);

// SiLU(a) * b, elementwise. Fused op "swiglu". (Shazeer, arXiv 2002.05202.)
Var SwiGlu(const Var& a, const Var& b);

// L2Norm(SiLU(causal depthwise convolution)), per head; heads == 0 leaves the norm out. Fused op
// "conv_silu_norm". `before` [B, K - 1, d] are the rows before x [B, T, d]; weight [d, K], the last
// tap multiplies the current row. `reach`, if not empty, has B * T entries: how many rows of its
// document a row may see, itself included (K or more: all of them).
Var ConvSiluNorm(const Var& before, const Var& x, const Var& weight, int64_t heads, double epsilon,
                 const std::vector<int64_t>& reach = {});

// Rotary positions (Su et al., arXiv 2104.09864): pairs (i, i + f / 2) of each head turned by
// position * base^(-2 i / f), angles formed in double. Tables for positions [B * T] (or [T] for all
// sequences alike, batch == 1), for rows of `dtype`. Fused op "rotate".
struct RotaryTables {
  Tensor cos, sin;  // [B or 1, 1, T, f / 2]
};
RotaryTables MakeRotaryTables(const std::vector<int64_t>& positions, int64_t batch,
                              int64_t head_dim, double base, DType dtype, Device device);
Var Rotate(const Var& x, const RotaryTables& tables);  // x [B, H, T, f]

// [B, T, H f] -> [B, H, T, f] (view) and back (copy).
Var SplitHeads(const Var& x, int64_t heads);
Var MergeHeads(const Var& x);

}  // namespace mnemo
