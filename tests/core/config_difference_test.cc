#include "src/core/config_difference.h"

#include <gtest/gtest.h>

#include "mnemo/v1/config.pb.h"
#include "src/core/config_text.h"

namespace mnemo {
namespace {

v1::RunConfig Parse(const std::string& text) {
  v1::RunConfig config;
  EXPECT_TRUE(ParseConfigText(text, "test", &config).ok());
  return config;
}

TEST(ConfigDifferencesTest, NamesEachInTheOrderOfTheSchema) {
  const v1::RunConfig a = Parse(R"(model { block: MAC layers: 2 memory { momentum: false } }
                                   data { shards: "x" shards: "y" })");
  const v1::RunConfig b = Parse(R"(model { block: LMM layers: 2 norm_epsilon: 0.5 }
                                   train { optimizer { beta1: 0.25 } }
                                   data { shards: "x" })");
  EXPECT_TRUE(ConfigDifferences(a, a).empty());
  const std::vector<ConfigDifference> found = ConfigDifferences(a, b);
  std::vector<std::string> lines;
  for (const auto& d : found) lines.push_back(d.path + ": " + d.before + " -> " + d.after);
  EXPECT_EQ(lines, (std::vector<std::string>{
                       "model.block: MAC -> LMM", "model.norm_epsilon: 0 -> 0.5",
                       "train.optimizer.beta1: 0 -> 0.25", "data.shards: \"x\", \"y\" -> \"x\""}));
}

// An absent field counts as its value.
TEST(ConfigDifferencesTest, PresenceAloneIsNone) {
  EXPECT_TRUE(ConfigDifferences(Parse("model { }"), Parse("")).empty());
}

}  // namespace
}  // namespace mnemo
