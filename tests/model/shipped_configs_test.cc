// Every file in configs/ loads, passes the check and is what its name says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <string>
#include <vector>

#include "mnemo/v1/config.pb.h"
#include "src/core/config_text.h"
#include "src/core/file_system.h"
#include "src/model/config_check.h"

namespace mnemo {
namespace {

std::vector<std::string> Names() {
  auto names = FileSystem::Posix().List(MNEMO_CONFIGS);
  EXPECT_TRUE(names.ok()) << names.status();
  return *names;
}

v1::RunConfig Load(const std::string& name) {
  v1::RunConfig config;
  const absl::Status status =
      LoadConfigFile(FileSystem::Posix(), std::string(MNEMO_CONFIGS) + "/" + name, &config);
  EXPECT_TRUE(status.ok()) << status;
  return config;
}

TEST(ShippedConfigsTest, AllLoadAndPassTheCheck) {
  ASSERT_GE(Names().size(), 28u);
  for (const std::string& name : Names()) {
    const auto effective = EffectiveConfig(Load(name), name);
    EXPECT_TRUE(effective.ok()) << effective.status();
  }
}

TEST(ShippedConfigsTest, EverySizeHasEveryBlock) {
  struct Size {
    const char* name;
    int layers, width;
  };
  for (const Size& size :
       {Size{"170m", 12, 768}, {"340m", 24, 1024}, {"760m", 24, 1536}, {"1.3b", 18, 2048}}) {
    for (v1::Block block : {v1::LMM, v1::MAC, v1::MAG, v1::MAL, v1::TRANSFORMER}) {
      std::string name = v1::Block_Name(block);
      for (char& c : name) c = static_cast<char>(std::tolower(c));
      const auto config =
          EffectiveConfig(Load(std::string(size.name) + "_" + name + ".textproto"), name);
      ASSERT_TRUE(config.ok()) << config.status();
      const v1::ModelConfig& model = config->model();
      EXPECT_EQ(model.block(), block);
      EXPECT_EQ(model.layers(), size.layers);
      EXPECT_EQ(model.width(), size.width);
      EXPECT_EQ(model.width() / model.heads(), 64);
      EXPECT_EQ(model.mlp_hidden(), size.width * 11 / 4);
      EXPECT_EQ(model.vocabulary(), 32768);
      EXPECT_EQ(config->train().sequence_length(), 4096);
      if (block == v1::MAG || block == v1::MAL) {
        EXPECT_EQ(model.attention().window(), 2048);
      }
      if (block == v1::MAC) {
        EXPECT_EQ(model.attention().segment(), 512);
      }
    }
  }
}

}  // namespace
}  // namespace mnemo
