#include "src/model/spec.h"

namespace mnemo {
namespace {

BlockKind KindOf(v1::Block block) {
  switch (block) {
    case v1::LMM:
      return BlockKind::kLmm;
    case v1::MAC:
      return BlockKind::kMac;
    case v1::MAG:
      return BlockKind::kMag;
    case v1::MAL:
      return BlockKind::kMal;
    default:
      MNEMO_CHECK(block == v1::TRANSFORMER, "unchecked configuration");
      return BlockKind::kTransformer;
  }
}

MemoryActivation ActivationOf(v1::Activation activation) {
  return activation == v1::GELU ? MemoryActivation::kGelu : MemoryActivation::kSilu;
}

Forgetting ForgettingOf(v1::ForgetTowards forget) {
  return forget == v1::NEVER     ? Forgetting::kNever
         : forget == v1::INITIAL ? Forgetting::kTowardsInitial
                                 : Forgetting::kTowardsZero;
}

void FillMemory(const v1::MemoryConfig& memory, ModelSpec& spec) {
  MemoryRule& rule = spec.rule;
  rule.depth = memory.depth();
  rule.head_dim = spec.head_dim();
  rule.hidden = memory.expansion() * spec.head_dim();
  rule.chunk = memory.chunk();
  rule.activation = ActivationOf(memory.activation());
  rule.residual = memory.residual();
  rule.layer_norm = memory.layer_norm();
  rule.biases = memory.biases();
  rule.momentum = memory.momentum();
  rule.forgetting = ForgettingOf(memory.forget_towards());
  rule.clamp = memory.clamp();
  rule.row_scale = memory.row_scale();
  rule.epsilon = spec.epsilon;
  const v1::GateConfig& gates = memory.gates();
  spec.gates = {.theta_max = gates.theta_max(),
                .eta_max = gates.eta_max(),
                .alpha_max = gates.alpha_max(),
                .average_surprise = gates.average_surprise(),
                .theta_bias = gates.theta_bias(),
                .eta_bias = gates.eta_bias(),
                .alpha_first = gates.alpha_first(),
                .alpha_last = gates.alpha_last()};
  spec.unit_initial_weights = memory.initial_weights() == v1::UNIT;
  spec.normalize_qk = memory.normalize_qk();
  spec.shared_qk_projection = memory.shared_qk_projection();
  spec.output_gate = ActivationOf(memory.output_gate());
}

}  // namespace

ModelSpec MakeSpec(const v1::ModelConfig& config) {
  MNEMO_CHECK(config.vocabulary() > 0, "the vocabulary is not known yet");
  ModelSpec spec{};
  spec.block = KindOf(config.block());
  spec.layers = config.layers();
  spec.width = config.width();
  spec.heads = config.heads();
  spec.vocabulary = config.vocabulary();
  spec.mlp_hidden = config.mlp_hidden();
  spec.tied_embeddings = config.tied_embeddings();
  spec.epsilon = config.norm_epsilon();
  if (spec.has_memory()) FillMemory(config.memory(), spec);
  if (spec.has_attention()) {
    spec.window = config.attention().window();
    spec.segment = config.attention().segment();
    spec.persistent_tokens = config.attention().persistent_tokens();
    spec.rope_base = config.attention().rope_base();
  }
  return spec;
}

}  // namespace mnemo
