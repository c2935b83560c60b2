#include "src/model/block.h"

#include <cmath>

#include "src/core/backend.h"
#include "src/core/fused/layers.h"
#include "src/core/ops.h"
#include "src/model/memory_path.h"
#include "src/model/mixers.h"

namespace mnemo {
namespace {

Var Mix(const MixerCall& call, const Var& x) {
  switch (call.spec.block) {
    case BlockKind::kLmm:
      return LmmMixer(call, x);
    case BlockKind::kMac:
      return MacMixer(call, x);
    case BlockKind::kMag:
      return MagMixer(call, x);
    case BlockKind::kMal:
      return MalMixer(call, x);
    case BlockKind::kTransformer:
      return TransformerMixer(call, x);
  }
  MNEMO_CHECK(false);
}

// Root of |W|^2 summed over all weights, averaged over sequences and heads.
double StateNorm(const MemoryState& state) {
  double squares = 0;
  for (const Var& w : state.w.w) {
    squares += Backend::For(w.device()).SquaredNorm(w.value().Contiguous());
  }
  const Var& first = state.w.w[0];
  return std::sqrt(squares / static_cast<double>(first.dim(0) * first.dim(1)));
}

}  // namespace

BlockResult RunBlock(const ModelSpec& spec, const UnitParameters& p, const Var& x,
                     const std::optional<Carry>& carry, const SliceContext& context,
                     BlockStatistics* statistics) {
  Require(x.rank() == 3 && x.dim(2) == spec.width && x.dim(1) == context.length,
          "block: rows of shape {} in a slice of {} tokens", x.shape(), context.length);
  BlockResult result;
  if (carry.has_value()) {
    result.carry = *carry;
  } else {
    Require(context.position == 0, "block: no carry at position {}", context.position);
    if (spec.has_memory()) BeginMemory(spec, p, x, result.carry);
  }
  const Var normalized = RmsNorm(x, p.Get("mixer_norm.weight"), 1, spec.epsilon);
  const Var mixed = Add(x, Mix({spec, p, context, result.carry, statistics}, normalized));
  const Var rows = RmsNorm(mixed, p.Get("mlp_norm.weight"), 1, spec.epsilon);
  const Var hidden = SwiGlu(MatMul(rows, Transpose(p.Get("mlp.gate.weight"))),
                            MatMul(rows, Transpose(p.Get("mlp.up.weight"))));
  result.y = Add(mixed, MatMul(hidden, Transpose(p.Get("mlp.down.weight"))));
  if (statistics != nullptr && spec.has_memory()) {
    const double rows_run = static_cast<double>(context.length);
    statistics->theta /= rows_run;
    statistics->eta /= rows_run;
    statistics->alpha /= rows_run;
    statistics->state_norm = StateNorm(result.carry.memory);
  }
  return result;
}

}  // namespace mnemo
