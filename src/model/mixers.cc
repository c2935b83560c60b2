#include "src/model/mixers.h"

#include "src/core/fused/layers.h"
#include "src/core/ops.h"
#include "src/model/attention_path.h"
#include "src/model/memory_path.h"
#include "src/model/tensor_split.h"

namespace mnemo {
namespace {

Var ReadNorm(const MixerCall& call, const Var& y) {
  return RmsNorm(y, call.p.Get("memory.read_norm.weight"), call.spec.own_heads(),
                 call.spec.epsilon);
}

Var Project(const MixerCall& call, const char* name, const Var& x) {
  return MatMul(x, Transpose(call.p.Get(name)));
}

Var Memory(const MixerCall& call, const Var& x) {
  return WriteAndRead(call.spec, call.p, x, 0, call.context, call.carry, call.probe);
}

}  // namespace

Var GatedRead(const MixerCall& call, const Var& x, const Var& y) {
  const Var gate = Project(call, "output_gate.weight", x);
  const Var read = ReadNorm(call, y);
  return call.spec.output_gate == MemoryActivation::kSilu ? SwiGlu(gate, read)
                                                          : Mul(Gelu(gate), read);
}

Var LmmMixer(const MixerCall& call, const Var& x) { return GatedRead(call, x, Memory(call, x)); }

Var MagMixer(const MixerCall& call, const Var& x) {
  const Var a = WindowAttention(call.spec, call.p, x, call.context, call.carry);
  const Var attended =
      RmsNorm(a, call.p.Get("attention.norm.weight"), call.spec.own_heads(), call.spec.epsilon);
  const Var gate = Sigmoid(ReadNorm(call, Memory(call, x)));
  return Mul(attended, gate);
}

Var MalMixer(const MixerCall& call, const Var& x) {
  const Var m = SumOfParts(
      call.spec, Project(call, "memory.output.weight", GatedRead(call, x, Memory(call, x))));
  return WindowAttention(call.spec, call.p, IntoParts(call.spec, m), call.context, call.carry);
}

Var TransformerMixer(const MixerCall& call, const Var& x) {
  return WindowAttention(call.spec, call.p, x, call.context, call.carry);
}

}  // namespace mnemo
