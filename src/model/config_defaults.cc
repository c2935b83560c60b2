#include "src/model/config_defaults.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "absl/strings/str_split.h"

namespace mnemo {
namespace {

// Everything that TTT_LINEAR and TTT_MLP fix. Gates of momentum and forgetting are among them
// because those are off.
constexpr const char* kPresetFields[] = {"depth",
                                         "activation",
                                         "residual",
                                         "layer_norm",
                                         "biases",
                                         "momentum",
                                         "forget_towards",
                                         "chunk",
                                         "row_scale",
                                         "normalize_qk",
                                         "output_gate",
                                         "shared_qk_projection",
                                         "gates.theta_max",
                                         "gates.eta_max",
                                         "gates.alpha_max",
                                         "gates.eta_bias",
                                         "gates.alpha_first",
                                         "gates.alpha_last",
                                         "gates.average_surprise"};

constexpr double kTttLinearBaseRate = 1.0;
constexpr double kTttMlpBaseRate = 0.1;

// Zero stands for the default wherever zero itself would make no sense.
template <typename T, typename D>
T OrDefault(T value, D fallback) {
  return value == T{} ? static_cast<T>(fallback) : value;
}

#define MNEMO_FILL(message, field, fallback) \
  (message).set_##field(OrDefault((message).field(), fallback))
// For fields with presence, where an explicit zero counts.
#define MNEMO_FILL_ABSENT(message, field, fallback) \
  if (!(message).has_##field()) (message).set_##field(fallback)

// 2.75 width to the nearest multiple of 32.
int32_t DefaultMlpHidden(int64_t width) {
  return static_cast<int32_t>(std::max<int64_t>(32, std::lround(2.75 * width / 32) * 32));
}

void ExpandPreset(int64_t head_dim, v1::MemoryConfig& memory) {
  if (memory.preset() == v1::PRESET_UNSPECIFIED) return;
  const bool linear = memory.preset() == v1::TTT_LINEAR;
  memory.clear_preset();
  memory.set_depth(linear ? 1 : 2);
  memory.set_activation(v1::GELU);
  memory.set_residual(true);
  memory.set_layer_norm(true);
  memory.set_biases(true);
  memory.set_momentum(false);
  memory.set_forget_towards(v1::NEVER);
  memory.set_chunk(16);
  memory.set_row_scale(true);
  memory.set_normalize_qk(false);
  memory.set_shared_qk_projection(true);
  memory.set_output_gate(v1::GELU);
  v1::GateConfig& gates = *memory.mutable_gates();
  gates.set_average_surprise(false);
  gates.set_theta_max((linear ? kTttLinearBaseRate : kTttMlpBaseRate) /
                      static_cast<double>(std::max<int64_t>(1, head_dim)));
}

void FillGates(const v1::MemoryConfig& memory, int64_t head_dim, v1::GateConfig& gates) {
  const bool linear = memory.depth() == 1 && !memory.layer_norm();
  const int64_t inverse = std::max<int64_t>(1, linear ? memory.chunk() : head_dim);
  MNEMO_FILL(gates, theta_max, 1.0 / static_cast<double>(inverse));
  MNEMO_FILL_ABSENT(gates, average_surprise, true);
  if (memory.momentum()) {
    MNEMO_FILL(gates, eta_max, 0.98);
  }
  if (memory.forget_towards() != v1::NEVER) {
    // Layer norm does not see the weights shrink, so forgetting towards zero has to stay small: a
    // gate that can learn more becomes unstable within thousands of tokens (docs/numerics.md).
    const bool blind_to_scale = memory.layer_norm() && memory.forget_towards() == v1::ZERO;
    MNEMO_FILL(gates, alpha_max, blind_to_scale ? 2e-4 : 0.98);
    MNEMO_FILL(gates, alpha_first, blind_to_scale ? 1e-4 : 1e-3);
    MNEMO_FILL(gates, alpha_last, 1e-6);
  }
}

void FillMemory(int64_t head_dim, v1::MemoryConfig& memory) {
  ExpandPreset(head_dim, memory);
  MNEMO_FILL(memory, depth, 2);
  const bool deep = memory.depth() >= 2;
  MNEMO_FILL(memory, expansion, 4);
  MNEMO_FILL(memory, activation, v1::SILU);
  MNEMO_FILL_ABSENT(memory, residual, deep);
  MNEMO_FILL_ABSENT(memory, layer_norm, deep);
  MNEMO_FILL_ABSENT(memory, momentum, true);
  MNEMO_FILL(memory, forget_towards, v1::ZERO);
  MNEMO_FILL(memory, chunk, 64);
  MNEMO_FILL(memory, initial_weights, deep ? v1::UNIT : v1::SMALL);
  MNEMO_FILL_ABSENT(memory, normalize_qk, true);
  MNEMO_FILL(memory, output_gate, v1::SILU);
  FillGates(memory, head_dim, *memory.mutable_gates());
}

void FillModel(v1::ModelConfig& model) {
  MNEMO_FILL(model, mlp_hidden, DefaultMlpHidden(model.width()));
  MNEMO_FILL(model, norm_epsilon, 1e-6);
  if (HasMemory(model.block())) {
    FillMemory(HeadDim(model), *model.mutable_memory());
  } else {
    model.clear_memory();
  }
  if (HasAttention(model.block())) {
    v1::AttentionConfig& attention = *model.mutable_attention();
    MNEMO_FILL(attention, rope_base, 10000);
    model.block() == v1::MAC ? attention.clear_window() : attention.clear_segment();
  } else {
    model.clear_attention();
  }
}

void FillTrain(v1::TrainConfig& train) {
  MNEMO_FILL(train, slice, train.sequence_length());
  MNEMO_FILL(train, sequences, 1);
  MNEMO_FILL(train, micro_batches, 1);
  MNEMO_FILL(train, accumulation, 1);
  MNEMO_FILL(train, rematerialize, v1::UNITS);
  MNEMO_FILL(train, log_every, 1);
  MNEMO_FILL(train, vocabulary_tile, 8192);
  MNEMO_FILL(train, evaluation_tokens, 16384);
  MNEMO_FILL(train, checkpoint_keep, 3);
  MNEMO_FILL_ABSENT(train, checkpoint_async, true);
  v1::OptimizerConfig& optimizer = *train.mutable_optimizer();
  MNEMO_FILL_ABSENT(optimizer, minimum_ratio, 0.1);
  MNEMO_FILL(optimizer, beta1, 0.9);
  MNEMO_FILL(optimizer, beta2, 0.95);
  MNEMO_FILL(optimizer, epsilon, 1e-8);
  MNEMO_FILL_ABSENT(optimizer, weight_decay, 0.1);
  MNEMO_FILL_ABSENT(optimizer, clip_norm, 1.0);
  MNEMO_FILL(optimizer, max_bad_steps, 5);
  MNEMO_FILL(optimizer, decay_steps, train.steps());
}

void FillExecution(v1::ExecutionConfig& execution) {
  MNEMO_FILL(execution, device, v1::CPU);
  MNEMO_FILL(execution, precision, execution.device() == v1::CUDA ? v1::BF16 : v1::F32);
  MNEMO_FILL_ABSENT(execution, fused, true);
  MNEMO_FILL_ABSENT(execution, deterministic, true);
}

bool IsSet(const google::protobuf::Message& root, const std::string& path) {
  const google::protobuf::Message* message = &root;
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  for (size_t i = 0; i < names.size(); ++i) {
    const auto* field = message->GetDescriptor()->FindFieldByName(names[i]);
    if (field == nullptr || !message->GetReflection()->HasField(*message, field)) return false;
    if (i + 1 < names.size()) message = &message->GetReflection()->GetMessage(*message, field);
  }
  return true;
}

}  // namespace

void FillDefaults(v1::RunConfig& config) {
  FillModel(*config.mutable_model());
  FillTrain(*config.mutable_train());
  MNEMO_FILL(*config.mutable_data(), document_reset, v1::NONE);
  MNEMO_FILL(*config.mutable_data(), prefetch, 2);
  FillExecution(*config.mutable_execution());
  MNEMO_FILL_ABSENT(*config.mutable_parallel(), zero, 1);
  MNEMO_FILL(*config.mutable_parallel(), timeout_seconds, 600);
}

int64_t HeadDim(const v1::ModelConfig& model) {
  return model.heads() > 0 ? model.width() / model.heads() : 0;
}

bool HasMemory(v1::Block block) {
  return block == v1::LMM || block == v1::MAC || block == v1::MAG || block == v1::MAL;
}

bool HasAttention(v1::Block block) {
  return block == v1::MAC || block == v1::MAG || block == v1::MAL || block == v1::TRANSFORMER;
}

std::vector<std::string> FieldsAgainstPreset(const v1::MemoryConfig& memory) {
  std::vector<std::string> set;
  if (memory.preset() == v1::PRESET_UNSPECIFIED) return set;
  std::copy_if(std::begin(kPresetFields), std::end(kPresetFields), std::back_inserter(set),
               [&](const char* path) { return IsSet(memory, path); });
  return set;
}

}  // namespace mnemo
