#include "src/model/config_ranges.h"

#include <google/protobuf/descriptor.h>

#include <cmath>

#include "absl/strings/str_join.h"

namespace mnemo {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// The upper bounds keep every product that sizes a buffer or counts parameters far inside 64 bits.
constexpr FieldRange kRanges[] = {
    {"model.layers", 1, 1000, false, "the number of blocks"},
    {"model.width", 1, 65536, false, "features of a token"},
    {"model.heads", 1, 4096, false, "heads share the width"},
    {"model.vocabulary", 1, 1 << 24, true, "0 takes the tokenizer's"},
    {"model.mlp_hidden", 1, 1 << 20, true, "0 takes 2.75 width"},
    {"model.norm_epsilon", 1e-12, 0.1, true, "0 takes 1e-6"},
    {"model.memory.depth", 1, 4, true, "layers of the memory network; 0 takes 2"},
    {"model.memory.expansion", 1, 64, true, "hidden width over head dim; 0 takes 4"},
    {"model.memory.chunk", 1, 4096, true, "tokens; 0 takes 64"},
    {"model.memory.clamp", 1e-6, 1e6, true, "norm of an inner gradient; 0 is off"},
    {"model.memory.gates.theta_max", 1e-9, 100, true, "write strength; 0 takes the default"},
    {"model.memory.gates.eta_max", 1e-9, 0.9999, true, "momentum stays below 1; 0 takes 0.98"},
    {"model.memory.gates.alpha_max", 1e-9, 0.9999, true,
     "forgetting stays below 1; 0 takes the default"},
    {"model.memory.gates.theta_bias", -30, 30, false, "input of a sigmoid"},
    {"model.memory.gates.eta_bias", -30, 30, false, "input of a sigmoid"},
    {"model.memory.gates.alpha_first", 1e-12, 0.9999, true,
     "forgetting a token; 0 takes the default"},
    {"model.memory.gates.alpha_last", 1e-12, 0.9999, true, "forgetting a token; 0 takes 1e-6"},
    {"model.attention.window", 1, 1 << 30, true, "tokens; 0 is full attention, TRANSFORMER only"},
    {"model.attention.segment", 1, 1 << 24, true, "tokens; MAC only"},
    {"model.attention.persistent_tokens", 1, 65536, true, "learned vectors; 0 is none"},
    {"model.attention.rope_base", 2, 1e12, true, "0 takes 10000"},
    {"train.steps", 1, 1e12, false, "optimizer steps"},
    {"train.sequence_length", 1, 1LL << 36, false, "tokens of one training sequence"},
    {"train.slice", 1, 1LL << 36, true, "tokens; 0 takes the whole sequence"},
    {"train.sequences", 1, 65536, true, "sequences of one micro-batch; 0 takes 1"},
    {"train.micro_batches", 1, 65536, true, "0 takes 1"},
    {"train.accumulation", 1, 65536, true, "0 takes 1"},
    {"train.log_every", 1, 1 << 30, true, "steps; 0 takes 1"},
    {"train.vocabulary_tile", 1, 1 << 24, true, "columns of the logits; 0 takes 8192"},
    {"train.evaluate_every", 1, 1e12, true, "steps; 0: after the last step only"},
    {"train.evaluation_tokens", 1, 1e12, true, "held-out tokens; 0 takes 16384"},
    {"train.checkpoint_every", 1, 1e12, true, "steps; 0: at the end only"},
    {"train.checkpoint_keep", 1, 1 << 20, true, "checkpoints; 0 takes 3"},
    {"train.checkpoint_keep_every", 1, 1e12, true, "steps; 0: none"},
    {"train.checkpoint_minutes", 1e-4, 1e6, true, "minutes; 0: by steps only"},
    {"train.optimizer.learning_rate", 1e-12, 10, false, "the peak; 1e-4 to 3e-3 is usual"},
    {"train.optimizer.minimum_ratio", 0, 1, false, "final over peak learning rate"},
    {"train.optimizer.warmup_steps", 0, 1e12, false, "steps"},
    {"train.optimizer.beta1", 1e-9, 0.999999, true, "0 takes 0.9"},
    {"train.optimizer.beta2", 1e-9, 0.999999, true, "0 takes 0.95"},
    {"train.optimizer.epsilon", 1e-20, 1, true, "0 takes 1e-8"},
    {"train.optimizer.weight_decay", 0, 10, false, "0.1 is usual"},
    {"train.optimizer.clip_norm", 1e-9, 1e9, true, "global gradient norm; 0 is off"},
    {"train.optimizer.max_bad_steps", 1, 1 << 30, true, "steps in a row; 0 takes 5"},
    {"train.optimizer.decay_steps", 1, 1e12, true, "steps; 0 takes train.steps"},
    {"data.prefetch", 1, 1024, true, "batches; 0 takes 2"},
    {"execution.threads", 1, 4096, true, "0 takes all cores"},
    {"parallel.dp", 1, 1 << 20, true, "ranks; 0 is the planner's choice"},
    {"parallel.sp", 1, 1 << 20, true, "ranks; 0 is the planner's choice"},
    {"parallel.tp", 1, 1 << 20, true, "ranks; 0 is the planner's choice"},
    {"parallel.zero", 0, 1, false, "1 shards the optimizer's state"},
    {"parallel.timeout_seconds", 1, 604800, true, "for one message; 0 takes 600"},
};

constexpr const char* kUnconstrained[] = {
    "model.tied_embeddings",
    "model.memory.residual",
    "model.memory.layer_norm",
    "model.memory.biases",
    "model.memory.momentum",
    "model.memory.row_scale",
    "model.memory.normalize_qk",
    "model.memory.shared_qk_projection",
    "model.memory.gates.average_surprise",
    "train.seed",
    "train.checkpoint_keep_best",
    "train.checkpoint_async",
    "train.init_from",
    "data.shards",
    "data.evaluation",
    "execution.fused",
    "execution.strict_fused",
    "execution.deterministic",
};

const FieldRange* FindRange(const std::string& path) {
  for (const FieldRange& range : kRanges) {
    if (path == range.path) return &range;
  }
  return nullptr;
}

bool IsNumber(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return true;
    default:
      return false;
  }
}

double NumberOf(const Message& message, const FieldDescriptor* field) {
  const auto* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection->GetInt32(message, field);
    case FieldDescriptor::CPPTYPE_INT64:
      return static_cast<double>(reflection->GetInt64(message, field));
    default:
      return reflection->GetDouble(message, field);
  }
}

std::string NamesOf(const google::protobuf::EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) {
    if (type.value(i)->number() != 0) names.push_back(type.value(i)->name());
  }
  return absl::StrJoin(names, ", ");
}

struct Walk {
  ProblemList& problems;
  std::set<std::string>& bad;

  void CheckNumber(const Message& message, const FieldDescriptor* field, const std::string& path) {
    const FieldRange* range = FindRange(path);
    if (range == nullptr) return;
    const double value = NumberOf(message, field);
    // An absent field with presence takes its default; without presence it reads as zero.
    if (field->has_presence() && !message.GetReflection()->HasField(message, field)) return;
    if (value == 0 && range->zero_is_default) return;
    if (value >= range->minimum && value <= range->maximum) return;  // false for NaN
    bad.insert(path);
    if (value == 0 && range->minimum > 0) {
      problems.Add("{} is missing: give a value from {} to {} ({})", path, range->minimum,
                   range->maximum, range->advice);
      return;
    }
    problems.Add("{} = {}: must be {}from {} to {} ({})", path, value,
                 range->zero_is_default ? "0 or " : "", range->minimum, range->maximum,
                 range->advice);
  }

  void CheckEnum(const Message& message, const FieldDescriptor* field, const std::string& path) {
    const int number = message.GetReflection()->GetEnumValue(message, field);
    if (field->enum_type()->FindValueByNumber(number) != nullptr) return;
    bad.insert(path);
    problems.Add("{} = {}: must be one of {}", path, number, NamesOf(*field->enum_type()));
  }

  // Absent messages are walked too: their required fields are absent.
  void Check(const Message& message, const std::string& prefix) {
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      const FieldDescriptor* field = message.GetDescriptor()->field(i);
      const std::string path = prefix + field->name();
      if (field->is_repeated()) continue;
      if (field->message_type() != nullptr) {
        Check(message.GetReflection()->GetMessage(message, field), path + ".");
      } else if (field->enum_type() != nullptr) {
        CheckEnum(message, field, path);
      } else if (IsNumber(*field)) {
        CheckNumber(message, field, path);
      }
    }
  }
};

}  // namespace

std::span<const FieldRange> FieldRanges() { return kRanges; }

std::span<const char* const> UnconstrainedFields() { return kUnconstrained; }

void CheckRanges(const v1::RunConfig& config, ProblemList& problems, std::set<std::string>& bad) {
  Walk{problems, bad}.Check(config, "");
}

}  // namespace mnemo
