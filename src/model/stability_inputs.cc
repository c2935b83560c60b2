#include "src/model/stability_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/core/fused/layers.h"
#include "src/core/ops.h"
#include "src/core/random.h"
#include "src/core/thread_pool.h"
#include "src/model/memory_path.h"

namespace mnemo {
namespace {

// One layer of the model's memory and little else.
ModelSpec MemoryAlone(ModelSpec spec) {
  spec.block = BlockKind::kLmm;
  spec.layers = 1;
  spec.vocabulary = 1;
  spec.mlp_hidden = 1;
  return spec;
}

Var Heads(const Var& x, int axis, std::span<const int64_t> heads) {
  if (!x.defined()) return x;
  std::vector<Var> parts;
  for (const int64_t h : heads) parts.push_back(Slice(x, axis, h, h + 1));
  return Concat(parts, axis);
}

// The first gates [1, H, 1, 1]: those of a row of zeros, as the gates' weights are zero at first.
Gates FirstGates(const ModelSpec& spec, const UnitParameters& p) {
  return ComputeGates(spec, p, Var(Tensor::Zeros({1, 1, spec.width}, DType::kF64)));
}

// [1, H, n, f] of standard normals, a pure function of (stream, head, token, feature).
Tensor Normals(const RandomStream& stream, std::span<const int64_t> heads, int64_t begin,
               int64_t end, int64_t head_dim) {
  const int64_t count = end - begin, rows = static_cast<int64_t>(heads.size()) * count;
  std::vector<double> values(rows * head_dim);
  ParallelFor(rows, 256, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const uint64_t head = static_cast<uint64_t>(heads[row / count]);
      const uint64_t token = static_cast<uint64_t>(begin + row % count);
      const uint64_t base = ((head << 40) + token) * static_cast<uint64_t>(head_dim);
      for (int64_t i = 0; i < head_dim; ++i) {
        values[row * head_dim + i] = stream.Normal(base + static_cast<uint64_t>(i));
      }
    }
  });
  return Tensor::FromHost(values, {1, static_cast<int64_t>(heads.size()), count, head_dim},
                          DType::kF64);
}

}  // namespace

MemoryRun FirstMemoryRun(const ModelSpec& spec, std::span<const int64_t> heads, MemoryInputs inputs,
                         int64_t tokens, uint64_t seed) {
  const ModelSpec alone = MemoryAlone(spec);
  const ParameterSet set = ParameterSet::Initialize(alone, seed, DType::kF64);
  const UnitParameters p(set, 0, nullptr);
  MemoryRun run;
  run.rule = spec.rule;
  run.heads = static_cast<int64_t>(heads.size());
  run.tokens = tokens;
  run.parameters = MemoryParametersOf(alone, p);
  const std::vector<int64_t> chosen(heads.begin(), heads.end());
  for (Var& w : run.parameters.initial.w) w = Heads(w, 0, chosen);
  for (Var& c : run.parameters.initial.c) c = Heads(c, 0, chosen);
  run.parameters.norm_weight = Heads(run.parameters.norm_weight, 0, chosen);
  run.parameters.norm_bias = Heads(run.parameters.norm_bias, 0, chosen);
  Gates gates = FirstGates(alone, p);
  for (Var* gate : {&gates.theta, &gates.eta, &gates.alpha}) *gate = Heads(*gate, 1, chosen);
  run.inputs = [=, rule = spec.rule, epsilon = spec.epsilon, unit = spec.normalize_qk](
                   int64_t begin, int64_t end) {
    const int64_t count = end - begin, h = static_cast<int64_t>(chosen.size());
    const auto normals = [&](const char* name, bool repeated) {
      const RandomStream stream(seed, 0, std::string("stability/") + name);
      if (!repeated) return Silu(Var(Normals(stream, chosen, begin, end, rule.head_dim)));
      const Var one(Normals(stream, chosen, 0, 1, rule.head_dim));
      return BroadcastTo(Silu(one), {1, h, count, rule.head_dim});
    };
    const auto constant = [&](const Var& gate) {
      return gate.defined() ? BroadcastTo(gate, {1, h, count, 1}) : gate;
    };
    const bool repeated = inputs == MemoryInputs::kRepeatedKey;
    const auto rows = [&](const char* name, bool same) {
      const Var x = normals(name, same);
      return unit ? L2Norm(x, 1, epsilon) : x;
    };
    const Var k = rows("k", repeated);
    return MemoryTokens{.q = repeated ? k : rows("q", false),
                        .k = k,
                        .v = normals("v", false),
                        .theta = constant(gates.theta),
                        .eta = constant(gates.eta),
                        .alpha = constant(gates.alpha)};
  };
  return run;
}

std::vector<int64_t> DistinctHeads(const ModelSpec& spec, int64_t most) {
  const bool alike =
      spec.rule.forgetting == Forgetting::kNever || spec.gates.alpha_first == spec.gates.alpha_last;
  const int64_t count = alike ? 1 : std::clamp<int64_t>(most, 1, spec.heads);
  std::vector<int64_t> heads;
  for (int64_t i = 0; i < count; ++i) {
    heads.push_back(count == 1 ? 0 : i * (spec.heads - 1) / (count - 1));
  }
  return heads;
}

bool SameMemory(const ModelSpec& a, const ModelSpec& b) {
  const auto key = [](const ModelSpec& spec) {
    const MemoryRule& rule = spec.rule;
    return std::vector<double>{static_cast<double>(rule.depth),
                               static_cast<double>(rule.head_dim),
                               rule.depth > 1 ? static_cast<double>(rule.hidden) : 0,
                               static_cast<double>(rule.chunk),
                               rule.depth > 1 ? static_cast<double>(rule.activation) : 0,
                               static_cast<double>(rule.residual),
                               static_cast<double>(rule.layer_norm),
                               static_cast<double>(rule.biases),
                               static_cast<double>(rule.momentum),
                               static_cast<double>(rule.forgetting),
                               rule.clamp,
                               static_cast<double>(rule.row_scale),
                               rule.epsilon,
                               static_cast<double>(spec.normalize_qk),
                               spec.gates.theta_max,
                               spec.gates.eta_max,
                               spec.gates.alpha_max,
                               static_cast<double>(spec.gates.average_surprise),
                               spec.gates.theta_bias,
                               spec.gates.eta_bias,
                               spec.gates.alpha_first,
                               spec.gates.alpha_last,
                               static_cast<double>(spec.unit_initial_weights)};
  };
  return key(a) == key(b);
}

std::string DescribeMemory(const ModelSpec& spec) {
  const MemoryRule& rule = spec.rule;
  std::string text = fmt::format("depth {}", rule.depth);
  if (rule.depth > 1) {
    text += fmt::format(", hidden {}, {}", rule.hidden,
                        rule.activation == MemoryActivation::kGelu ? "GELU" : "SiLU");
  }
  if (rule.residual) text += ", residual";
  if (rule.layer_norm) text += ", LN";
  if (rule.biases) text += ", biases";
  if (rule.row_scale) text += ", row scale";
  if (!rule.momentum) text += ", no momentum";
  if (rule.clamp > 0) text += fmt::format(", clamp {:g}", rule.clamp);
  text += fmt::format(", chunk {}, theta_max {:g}", rule.chunk, spec.gates.theta_max);
  if (rule.forgetting == Forgetting::kNever) return text + ", no forgetting";
  text += fmt::format(", alpha {:g} .. {:g}", spec.gates.alpha_first, spec.gates.alpha_last);
  if (rule.forgetting == Forgetting::kTowardsInitial) text += " towards W_0";
  return text;
}

}  // namespace mnemo
