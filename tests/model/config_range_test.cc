#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "src/model/config_check.h"
#include "src/model/config_ranges.h"
#include "tests/model/config_samples.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

struct Row {
  const char* path;
  const char* value;
  const char* message;  // after "path"
};

// One value out of range for every number of the configuration.
constexpr Row kRows[] = {
    {"model.layers", "0", " is missing: give a value from 1 to 1000 (the number of blocks)"},
    {"model.layers", "-2", " = -2: must be from 1 to 1000 (the number of blocks)"},
    {"model.width", "70000", " = 70000: must be from 1 to 65536 (features of a token)"},
    {"model.heads", "-1", " = -1: must be from 1 to 4096 (heads share the width)"},
    {"model.vocabulary", "-1", " = -1: must be 0 or from 1 to 16777216 (0 takes the tokenizer's)"},
    {"model.mlp_hidden", "2000000", " = 2000000: must be 0 or from 1 to 1048576 (0 takes 2.75"},
    {"model.norm_epsilon", "nan", " = nan: must be 0 or from 1e-12 to 0.1 (0 takes 1e-6)"},
    {"model.memory.depth", "5", " = 5: must be 0 or from 1 to 4 (layers of the memory network"},
    {"model.memory.expansion", "65", " = 65: must be 0 or from 1 to 64 (hidden width over"},
    {"model.memory.chunk", "-16", " = -16: must be 0 or from 1 to 4096 (tokens; 0 takes 64)"},
    {"model.memory.clamp", "inf", " = inf: must be 0 or from 1e-06 to 1000000 (norm of an inner"},
    {"model.memory.gates.theta_max", "-0.1", " = -0.1: must be 0 or from 1e-09 to 100 (write"},
    {"model.memory.gates.eta_max", "1", " = 1: must be 0 or from 1e-09 to 0.9999 (momentum stays"},
    {"model.memory.gates.alpha_max", "1.5", " = 1.5: must be 0 or from 1e-09 to 0.9999 (forgetti"},
    {"model.memory.gates.theta_bias", "-31", " = -31: must be from -30 to 30 (input of a sigmoid)"},
    {"model.memory.gates.eta_bias", "nan", " = nan: must be from -30 to 30 (input of a sigmoid)"},
    {"model.memory.gates.alpha_first", "2", " = 2: must be 0 or from 1e-12 to 0.9999 (forgetting"},
    {"model.memory.gates.alpha_last", "-1", " = -1: must be 0 or from 1e-12 to 0.9999 (forgett"},
    {"model.attention.window", "-1", " = -1: must be 0 or from 1 to 1073741824 (tokens; 0 is full"},
    {"model.attention.segment", "-64",
     " = -64: must be 0 or from 1 to 16777216 (tokens; MAC only)"},
    {"model.attention.persistent_tokens", "-1", " = -1: must be 0 or from 1 to 65536 (learned vec"},
    {"model.attention.rope_base", "1",
     " = 1: must be 0 or from 2 to 1000000000000 (0 takes 10000)"},
    {"train.steps", "0", " is missing: give a value from 1 to 1000000000000 (optimizer steps)"},
    {"train.sequence_length", "-1", " = -1: must be from 1 to 68719476736 (tokens of one train"},
    {"train.slice", "-128", " = -128: must be 0 or from 1 to 68719476736 (tokens; 0 takes the"},
    {"train.sequences", "-1", " = -1: must be 0 or from 1 to 65536 (sequences of one micro-batch"},
    {"train.micro_batches", "-1", " = -1: must be 0 or from 1 to 65536 (0 takes 1)"},
    {"train.accumulation", "70000", " = 70000: must be 0 or from 1 to 65536 (0 takes 1)"},
    {"train.log_every", "-1", " = -1: must be 0 or from 1 to 1073741824 (steps; 0 takes 1)"},
    {"train.vocabulary_tile", "-1", " = -1: must be 0 or from 1 to 16777216 (columns of the lo"},
    {"train.evaluate_every", "-1", " = -1: must be 0 or from 1 to 1000000000000 (steps; 0: after"},
    {"train.evaluation_tokens", "-1", " = -1: must be 0 or from 1 to 1000000000000 (held-out"},
    {"train.checkpoint_every", "-1", " = -1: must be 0 or from 1 to 1000000000000 (steps; 0: at"},
    {"train.checkpoint_keep", "-1", " = -1: must be 0 or from 1 to 1048576 (checkpoints; 0"},
    {"train.checkpoint_keep_every", "-1", " = -1: must be 0 or from 1 to 1000000000000 (steps; 0:"},
    {"train.checkpoint_minutes", "-1",
     " = -1: must be 0 or from 0.0001 to 1000000 (minutes; 0: by"},
    {"train.optimizer.learning_rate", "0", " is missing: give a value from 1e-12 to 10 (the peak;"},
    {"train.optimizer.minimum_ratio", "1.1", " = 1.1: must be from 0 to 1 (final over peak learn"},
    {"train.optimizer.warmup_steps", "-1", " = -1: must be from 0 to 1000000000000 (steps)"},
    {"train.optimizer.beta1", "1", " = 1: must be 0 or from 1e-09 to 0.999999 (0 takes 0.9)"},
    {"train.optimizer.beta2", "-0.9", " = -0.9: must be 0 or from 1e-09 to 0.999999 (0 takes"},
    {"train.optimizer.epsilon", "2", " = 2: must be 0 or from 1e-20 to 1 (0 takes 1e-8)"},
    {"train.optimizer.weight_decay", "-0.1", " = -0.1: must be from 0 to 10 (0.1 is usual)"},
    {"train.optimizer.clip_norm", "-1", " = -1: must be 0 or from 1e-09 to 1000000000 (global gra"},
    {"train.optimizer.max_bad_steps", "-1", " = -1: must be 0 or from 1 to 1073741824 (steps in a"},
    {"train.optimizer.decay_steps", "-1", " = -1: must be 0 or from 1 to 1000000000000 (steps; 0"},
    {"data.prefetch", "2000", " = 2000: must be 0 or from 1 to 1024 (batches; 0 takes 2)"},
    {"execution.threads", "-1", " = -1: must be 0 or from 1 to 4096 (0 takes all cores)"},
    {"parallel.dp", "-1", " = -1: must be 0 or from 1 to 1048576 (ranks; 0 is the planner's"},
    {"parallel.sp", "-1", " = -1: must be 0 or from 1 to 1048576 (ranks; 0 is the planner's"},
    {"parallel.tp", "-1", " = -1: must be 0 or from 1 to 1048576 (ranks; 0 is the planner's"},
    {"parallel.zero", "2", " = 2: must be from 0 to 1 (1 shards the optimizer's state)"},
    {"parallel.timeout_seconds", "-1", " = -1: must be 0 or from 1 to 604800 (for one message; 0"},
};

// Calls `visit` for every field that is not a message, with its path.
void ForEachField(const google::protobuf::Descriptor* type, const std::string& prefix,
                  const std::function<void(const std::string&,
                                           const google::protobuf::FieldDescriptor*)>& visit) {
  for (int i = 0; i < type->field_count(); ++i) {
    const auto* field = type->field(i);
    if (field->message_type() != nullptr) {
      ForEachField(field->message_type(), prefix + field->name() + ".", visit);
    } else {
      visit(prefix + field->name(), field);
    }
  }
}

TEST(ConfigRangeTest, EveryNumberOutOfRangeIsReportedAloneWithWhatIsAllowed) {
  for (const Row& row : kRows) {
    const std::string message = CheckMessage(v1::MAC, {std::string(row.path) + "=" + row.value});
    EXPECT_THAT(message, StartsWith(std::string(row.path) + row.message));
    EXPECT_THAT(message, Not(HasSubstr("\n"))) << "one mistake is one problem";
  }
}

TEST(ConfigRangeTest, EveryFieldHasARowOrIsUnconstrained) {
  std::set<std::string> known(UnconstrainedFields().begin(), UnconstrainedFields().end());
  for (const Row& row : kRows) known.insert(row.path);
  std::set<std::string> ranges;
  for (const FieldRange& range : FieldRanges()) ranges.insert(range.path);
  ForEachField(v1::RunConfig::descriptor(), "", [&](const std::string& path, const auto* field) {
    if (field->enum_type() != nullptr) return;
    EXPECT_TRUE(known.contains(path)) << path << " has no row in kRows";
    EXPECT_NE(ranges.contains(path),
              UnconstrainedFields().end() !=
                  std::find(UnconstrainedFields().begin(), UnconstrainedFields().end(), path))
        << path << " needs a range or a place in UnconstrainedFields()";
    ranges.erase(path);
  });
  EXPECT_THAT(ranges, testing::IsEmpty()) << "ranges of fields that do not exist";
}

TEST(ConfigRangeTest, DoublesRefuseWhatIsNotFinite) {
  ForEachField(v1::RunConfig::descriptor(), "", [&](const std::string& path, const auto* field) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_DOUBLE) return;
    for (const char* value : {"nan", "inf", "-inf"}) {
      EXPECT_THAT(CheckMessage(v1::MAG, {path + "=" + value}), StartsWith(path + " = "));
    }
  });
}

TEST(ConfigRangeTest, EnumNumbersWithoutANameAreRefused) {
  int enums = 0;
  ForEachField(v1::RunConfig::descriptor(), "", [&](const std::string& path, const auto* field) {
    if (field->enum_type() == nullptr) return;
    ++enums;
    // A number can only come from the text of a file: --set takes names.
    std::string text = path + ": 77";
    for (size_t dot = text.rfind('.'); dot != std::string::npos; dot = text.rfind('.')) {
      text = text.substr(0, dot) + " { " + text.substr(dot + 1) + " }";
    }
    v1::RunConfig config, change;
    config = SampleConfig(v1::MAC);
    ASSERT_TRUE(ParseConfigText(text, "text", &change).ok()) << text;
    config.MergeFrom(change);
    EXPECT_THAT(std::string(CheckConfig(config, "sample").message()),
                HasSubstr(path + " = 77: must be one of "));
  });
  EXPECT_EQ(enums, 10);
}

TEST(ConfigRangeTest, AnEmptyConfigurationNamesEverythingThatIsRequired) {
  const std::string message(CheckConfig(v1::RunConfig(), "run.textproto").message());
  EXPECT_THAT(message, StartsWith("7 problems in run.textproto:\n"));
  for (const char* path :
       {"model.block", "model.layers", "model.width", "model.heads", "train.steps",
        "train.sequence_length", "train.optimizer.learning_rate"}) {
    EXPECT_THAT(message, HasSubstr(std::string("\n  ") + path + " is missing: "));
  }
}

}  // namespace
}  // namespace mnemo
