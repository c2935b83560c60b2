#include "src/core/fused/gates.h"

#include "src/core/fused/fused_ops.h"
#include "src/core/ops.h"

namespace mnemo {
namespace {

std::vector<Var> Compose(std::span<const Var> inputs, const GateAttributes& attributes) {
  const Var x = Widen(inputs[0]);
  std::vector<Var> gates;
  for (size_t i = 0; i < attributes.maxima.size(); ++i) {
    const Var &weight = inputs[1 + 2 * i], &bias = inputs[2 + 2 * i];
    // [batch, tokens, heads]
    const Var gate = Scale(Sigmoid(Add(MatMul(x, Transpose(weight)), bias)), attributes.maxima[i]);
    gates.push_back(Reshape(Permute(gate, {0, 2, 1}), {x.dim(0), gate.dim(2), x.dim(1), 1}));
  }
  return gates;
}

// Listed from the start of the program, not from the first call.
[[maybe_unused]] const FusedOpBase* const gates_op = &GatesOp();

}  // namespace

FusedOp<GateAttributes>& GatesOp() {
  static FusedOp<GateAttributes> op("gates", &Compose);
  return op;
}

std::vector<Var> HeadGates(const Var& x, std::span<const GateWeights> gates) {
  std::vector<Var> inputs = {x};
  GateAttributes attributes;
  for (const GateWeights& gate : gates) {
    inputs.push_back(gate.weight);
    inputs.push_back(gate.bias);
    attributes.maxima.push_back(gate.maximum);
  }
  return GatesOp()(inputs, attributes);
}

}  // namespace mnemo
