#include "src/core/config_text.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "mnemo/v1/config.pb.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string ParseError(const std::string& text) {
  v1::RunConfig config;
  return std::string(ParseConfigText(text, "run.textproto", &config).message());
}

std::string SetError(const std::vector<std::string>& overrides) {
  v1::RunConfig config;
  return std::string(ApplyOverrides(overrides, &config).message());
}

TEST(ParseConfigTextTest, ReadsNestedFields) {
  v1::RunConfig config;
  config.mutable_model()->set_layers(9);  // cleared first
  ASSERT_TRUE(ParseConfigText("model { block: MAG width: 64 memory { gates { theta_max: 0.5 } } }\n"
                              "data { shards: ['a', 'b'] }",
                              "x", &config)
                  .ok());
  EXPECT_EQ(config.model().block(), v1::MAG);
  EXPECT_EQ(config.model().layers(), 0);
  EXPECT_EQ(config.model().memory().gates().theta_max(), 0.5);
  EXPECT_EQ(config.data().shards_size(), 2);
}

TEST(ParseConfigTextTest, UnknownFieldsAreErrorsWithTheirPlace) {
  EXPECT_EQ(ParseError("model {\n  width: 4\n  widht: 4\n}\n"),
            "run.textproto:3:3: Message type \"mnemo.v1.ModelConfig\" has no field named "
            "\"widht\".");
}

TEST(ParseConfigTextTest, ReportsAllProblemsInOrder) {
  const std::string error = ParseError(
      "model {\n"
      "  block: MEC\n"
      "  layers: two\n"
      "  lyers: 2\n"
      "  width: 4.5\n"
      "  width: 99999999999\n"
      "}\n"
      "train { steps: 3\n"
      "  rematerialise: UNITS }\n");
  EXPECT_THAT(error, StartsWith("6 problems in run.textproto:\n  run.textproto:2:"));
  for (const char* part : {":2:10: Unknown enumeration value of \"MEC\"", ":3:11: Expected integer",
                           ":4:3: Message type", ":5:", ":6:", ":9:3: Message type"}) {
    EXPECT_THAT(error, HasSubstr(part));
  }
}

TEST(ParseConfigTextTest, BrokenSyntaxIsOneErrorWithoutItsConsequences) {
  const std::string error = ParseError("model {\n  layers:\n  width: 4\n  heads: 2\n}\n");
  EXPECT_THAT(error, StartsWith("run.textproto:3:3: "));
  EXPECT_THAT(error, Not(HasSubstr("\n")));
  EXPECT_THAT(ParseError("model {"), StartsWith("run.textproto:1:"));
  EXPECT_THAT(ParseError("model { width: 4 } }"), StartsWith("run.textproto:1:20: "));
}

TEST(ParseConfigTextTest, AFieldGivenTwiceIsAnError) {
  EXPECT_THAT(ParseError("model { width: 4 width: 8 }"), HasSubstr("specified multiple times"));
}

TEST(ParseConfigTextTest, AMissingFileIsNamed) {
  v1::RunConfig config;
  EXPECT_THAT(
      std::string(LoadConfigFile(FileSystem::Posix(), "/no/such.textproto", &config).message()),
      HasSubstr("/no/such.textproto"));
}

TEST(ApplyOverridesTest, SetsEveryKindOfField) {
  v1::RunConfig config;
  const std::vector<std::string> overrides = {"train.steps=20",
                                              "train.seed=18446744073709551615",
                                              "model.block=MAC",
                                              "model.memory.layer_norm=false",
                                              "model.memory.gates.theta_max=1e-3",
                                              "data.shards=a.h5,b.h5",
                                              "data.shards+=c=d.h5",
                                              "train.steps=30"};
  ASSERT_TRUE(ApplyOverrides(overrides, &config).ok());
  EXPECT_EQ(config.train().steps(), 30);
  EXPECT_EQ(config.train().seed(), UINT64_MAX);
  EXPECT_EQ(config.model().block(), v1::MAC);
  EXPECT_TRUE(config.model().memory().has_layer_norm());
  EXPECT_FALSE(config.model().memory().layer_norm());
  EXPECT_EQ(config.model().memory().gates().theta_max(), 1e-3);
  ASSERT_EQ(config.data().shards_size(), 3);
  EXPECT_EQ(config.data().shards(2), "c=d.h5");
}

TEST(ApplyOverridesTest, ReplacesListsAndClearsFields) {
  v1::RunConfig config;
  config.mutable_data()->add_shards("old");
  config.mutable_model()->mutable_memory()->set_layer_norm(true);
  config.mutable_model()->mutable_memory()->mutable_gates()->set_theta_max(1);
  const std::vector<std::string> overrides = {"data.shards=new",
                                              "model.memory.layer_norm=", "model.memory.gates="};
  ASSERT_TRUE(ApplyOverrides(overrides, &config).ok());
  EXPECT_EQ(config.data().shards_size(), 1);
  EXPECT_EQ(config.data().shards(0), "new");
  EXPECT_FALSE(config.model().memory().has_layer_norm());
  EXPECT_FALSE(config.model().memory().has_gates());
}

TEST(ApplyOverridesTest, UnknownPathsNameTheNearest) {
  EXPECT_THAT(SetError({"model.chunk=16"}),
              AllOf(StartsWith("--set model.chunk=16: there is no field model.chunk; near it: "),
                    HasSubstr("model.memory.chunk")));
  EXPECT_THAT(SetError({"train.optimiser.learning_rte=1"}),
              HasSubstr("near it: train.optimizer.learning_rate"));
  EXPECT_THAT(SetError({"train.steps.more=1"}), HasSubstr("there is no field train.steps.more"));
}

TEST(ApplyOverridesTest, BadValuesSayWhatIsExpected) {
  EXPECT_EQ(SetError({"model.width=wide"}),
            "--set model.width=wide: expected an integer from -2147483648 to 2147483647");
  EXPECT_THAT(SetError({"model.width=99999999999"}), HasSubstr("expected an integer from"));
  EXPECT_THAT(SetError({"train.seed=-1"}), HasSubstr("from 0 to 18446744073709551615"));
  EXPECT_THAT(SetError({"model.memory.biases=1"}), HasSubstr("expected true or false"));
  EXPECT_THAT(SetError({"model.memory.clamp=big"}), HasSubstr("expected a number"));
  EXPECT_EQ(SetError({"model.block=MEC"}),
            "--set model.block=MEC: expected one of LMM, MAC, MAG, MAL, TRANSFORMER");
  EXPECT_THAT(SetError({"model.memory.gates=3"}),
              HasSubstr("a group of fields has no value; set one of model.memory.gates.theta_max"));
  EXPECT_THAT(SetError({"train.steps+=3"}), HasSubstr("not a list: use = instead of +="));
  EXPECT_THAT(SetError({"train.steps"}), HasSubstr("expected path.to.field=value"));
  EXPECT_THAT(SetError({"=3"}), HasSubstr("expected path.to.field=value"));
}

TEST(ApplyOverridesTest, ReportsAllProblems) {
  EXPECT_THAT(SetError({"model.width=x", "train.steps=5", "train.stps=5"}),
              AllOf(StartsWith("2 problems in --set:\n  --set model.width=x"),
                    HasSubstr("\n  --set train.stps=5")));
}

TEST(PrintConfigTextTest, ReadsBackTheSame) {
  v1::RunConfig config, again;
  config.mutable_model()->set_block(v1::MAL);
  config.mutable_model()->mutable_memory()->mutable_gates()->set_theta_max(0.1);
  config.mutable_model()->mutable_memory()->set_momentum(false);
  config.mutable_data()->add_shards("quo\"te \xc3\xa9");
  ASSERT_TRUE(ParseConfigText(PrintConfigText(config), "printed", &again).ok());
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(config, again));
}

}  // namespace
}  // namespace mnemo
