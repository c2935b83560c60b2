// The table of sizes in docs/model.md, against the configurations.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <sstream>

#include "src/core/config_text.h"
#include "src/model/config_check.h"
#include "src/model/parameters.h"

namespace mnemo {
namespace {

// Configuration name to the rest of its line.
std::map<std::string, std::string> TableOfSizes() {
  std::istringstream text(FileSystem::Posix().ReadFile(MNEMO_MODEL_DOC).value());
  const std::regex row(R"(\| `([\w.]+)` \| ([A-Z]+ \|[ \d|,]+) \|)");
  std::map<std::string, std::string> table;
  std::smatch match;
  for (std::string line; std::getline(text, line);) {
    if (std::regex_match(line, match, row)) table[match[1]] = match[2];
  }
  return table;
}

std::string WithCommas(int64_t n) {
  const std::string digits = fmt::format("{}", n);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

TEST(ParameterTableTest, EveryConfigurationIsInTheTableWithItsCount) {
  std::map<std::string, std::string> expected;
  for (const auto& entry : std::filesystem::directory_iterator(MNEMO_CONFIGS)) {
    v1::RunConfig config;
    ASSERT_TRUE(LoadConfigFile(FileSystem::Posix(), entry.path(), &config).ok());
    config = EffectiveConfig(config, entry.path()).value();
    v1::ModelConfig& model = *config.mutable_model();
    if (model.vocabulary() == 0) model.set_vocabulary(264);  // bytes
    expected[entry.path().stem()] =
        fmt::format("{} | {} | {} | {} | {} | {} | {}", v1::Block_Name(model.block()),
                    model.layers(), model.width(), model.heads(), model.mlp_hidden(),
                    model.vocabulary(), WithCommas(CountParameters(MakeSpec(model))));
  }
  ASSERT_FALSE(expected.empty());
  EXPECT_EQ(TableOfSizes(), expected);
}

}  // namespace
}  // namespace mnemo
