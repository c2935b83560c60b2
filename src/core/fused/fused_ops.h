// The fused ops themselves, for those who register kernels of a device (fused_op.h). What each
// computes is said where it is called from: layers.h, gates.h, attention.h, cross_entropy.h,
// memory_scan.h.
#pragma once

#include <span>
#include <vector>

#include "src/core/fused/attention.h"
#include "src/core/fused/memory_scan.h"
#include "src/core/fused_op.h"

namespace mnemo {

struct NormAttributes {
  int64_t heads;
  double epsilon;
};
// x [..., d], weight [d] -> [..., d].
FusedOp<NormAttributes>& RmsNormOp();

struct NoAttributes {};
// a, b -> one output of their shape.
FusedOp<NoAttributes>& SwiGluOp();

struct ConvAttributes {
  int64_t heads;  // 0: no norm
  double epsilon;
  std::vector<int64_t> reach;
};
// before [B, K - 1, d], x [B, T, d], weight [d, K] -> [B, T, d].
FusedOp<ConvAttributes>& ConvSiluNormOp();

// x [B, H, T, f], cos and sin [B or 1, 1, T, f / 2] of WideType -> [B, H, T, f].
FusedOp<NoAttributes>& RotateOp();

struct GateAttributes {
  std::vector<double> maxima;  // of each gate
};
// x [B, T, d], then weight [H, d] and bias [H] of each gate -> [B, H, T, 1] of WideType for each.
FusedOp<GateAttributes>& GatesOp();

struct AttentionAttributes {
  AttentionMask mask;
  bool persistent = false;
  std::vector<int64_t> run_positions;  // first position of each run
};
// q; persistent k and v if there are any; k and v of each run -> [B, H, T, f].
FusedOp<AttentionAttributes>& AttentionOp();

struct CrossEntropyAttributes {
  Tensor targets;  // i32 [N]: rows of the head; others outside of it
  int64_t tile;
};
// x [N, d], head [V, d] -> log of the sum of exp(logit) [N, 1]; the target's logit [N, 1], 0 where
// the target is not among the head's rows.
FusedOp<CrossEntropyAttributes>& CrossEntropyOp();

struct CrossEntropyGradientAttributes {
  Tensor targets;  // i32 [N], below V; negative: masked
  int64_t tile;
  double scale;
};
// x [N, d], head [V, d], constants -> losses [N, 1] of WideType, 0 where masked; the gradients of
// `scale` times their sum: of x [N, d], and of the head [V, d] in WideType.
FusedOp<CrossEntropyGradientAttributes>& CrossEntropyGradientOp();

struct MemoryScanAttributes {
  MemoryRule rule;
  int64_t open_count = 0;  // tokens of the open chunk that comes in
  Tensor resets;           // [B, C] or undefined
};
// What goes in, and out, flattened in the order of ForEachVar.
struct MemoryScanInputs {
  MemoryTokens tokens;
  MemoryParameters parameters;
  MemoryState state;
};
FusedOp<MemoryScanAttributes>& MemoryScanOp();

template <typename F>
void ForEachVar(const MemoryRule& rule, MemoryScanInputs& inputs, F&& f) {
  f(inputs.tokens.q);
  f(inputs.tokens.k);
  f(inputs.tokens.v);
  f(inputs.tokens.theta);
  if (rule.momentum) f(inputs.tokens.eta);
  if (rule.forgetting != Forgetting::kNever) f(inputs.tokens.alpha);
  ForEachVar(rule, inputs.parameters, f);
  ForEachVar(rule, inputs.state, f);
}

template <typename F>
void ForEachVar(const MemoryRule& rule, MemoryScanResult& result, F&& f) {
  f(result.y);
  ForEachVar(rule, result.state, f);
  if (rule.clamp > 0) {
    Var hits(result.clamp_hits);
    f(hits);
    result.clamp_hits = hits.value();
  }
}

}  // namespace mnemo
