#include "src/model/block.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "src/core/backend.h"
#include "src/core/fused/layers.h"
#include "src/core/ops.h"
#include "src/core/peers.h"
#include "src/model/memory_path.h"
#include "src/model/mixers.h"
#include "src/model/tensor_split.h"

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

// |W|^2 summed over all weights, mean over the sequences and this rank's heads.
double MeanSquaredState(const MemoryState& state) {
  std::vector<Tensor> weights;
  for (const Var& w : state.w.w) weights.push_back(w.value().Contiguous());
  const Tensor& first = weights[0];
  const std::vector<double> squares = Backend::For(first.device()).SquaredNorms(weights);
  return std::accumulate(squares.begin(), squares.end(), 0.0) /
         static_cast<double>(first.dim(0) * first.dim(1));
}

// From sums over the rows run to means, over the heads of all ranks.
void FinishStatistics(const ModelSpec& spec, const MemoryState& state, int64_t rows, Device device,
                      BlockStatistics& statistics) {
  const double scale = 1 / (static_cast<double>(rows) * spec.split.ranks);
  std::vector<double> sums = {statistics.theta * scale, statistics.eta * scale,
                              statistics.alpha * scale, MeanSquaredState(state) / spec.split.ranks,
                              static_cast<double>(statistics.clamp_hits)};
  if (spec.split.ranks > 1) {
    const Tensor all =
        Tensor::FromHost(sums, {static_cast<int64_t>(sums.size())}, DType::kF64, device);
    spec.split.peers->Sum(all);
    sums = all.ToDoubles();
  }
  statistics.theta = sums[0];
  statistics.eta = sums[1];
  statistics.alpha = sums[2];
  statistics.state_norm = std::sqrt(sums[3]);
  statistics.clamp_hits = static_cast<int64_t>(sums[4]);
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
  const Var mix = Mix({spec, p, context, result.carry, statistics}, IntoParts(spec, normalized));
  const Var mixed = Add(x, SumOfParts(spec, mix));
  const Var rows = IntoParts(spec, RmsNorm(mixed, p.Get("mlp_norm.weight"), 1, spec.epsilon));
  const Var hidden = SwiGlu(MatMul(rows, Transpose(p.Get("mlp.gate.weight"))),
                            MatMul(rows, Transpose(p.Get("mlp.up.weight"))));
  const Var down = MatMul(hidden, Transpose(p.Get("mlp.down.weight")));
  result.y = Add(mixed, SumOfParts(spec, down));
  if (statistics != nullptr && spec.has_memory()) {
    FinishStatistics(spec, result.carry.memory, context.length, x.device(), *statistics);
  }
  return result;
}

}  // namespace mnemo
