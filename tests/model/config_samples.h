// Valid configurations to break in tests.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "mnemo/v1/config.pb.h"
#include "src/core/config_text.h"
#include "src/model/config_check.h"

namespace mnemo {

// A valid configuration of a block, with `overrides` applied as by --set.
inline v1::RunConfig SampleConfig(v1::Block block, const std::vector<std::string>& overrides = {}) {
  v1::RunConfig config;
  const absl::Status parsed = ParseConfigText(
      "model { layers: 2 width: 128 heads: 2 attention { window: 64 segment: 64 } }\n"
      "train { steps: 100 sequence_length: 256 slice: 128 optimizer { learning_rate: 1e-3 } }\n",
      "sample", &config);
  EXPECT_TRUE(parsed.ok()) << parsed;
  config.mutable_model()->set_block(block);
  const absl::Status set = ApplyOverrides(overrides, &config);
  EXPECT_TRUE(set.ok()) << set;
  return config;
}

// What CheckConfig says of it; empty if nothing.
inline std::string CheckMessage(v1::Block block, const std::vector<std::string>& overrides = {}) {
  return std::string(CheckConfig(SampleConfig(block, overrides), "sample").message());
}

}  // namespace mnemo
