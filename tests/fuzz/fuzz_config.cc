// A run configuration: its text, what is checked of it, and the same bytes as overrides.
#include <string>
#include <string_view>
#include <vector>

#include "mnemo/v1/config.pb.h"
#include "src/core/config_text.h"
#include "src/core/status.h"
#include "src/model/config_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mnemo;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  v1::RunConfig config;
  if (ParseConfigText(text, "input", &config).ok()) {
    const auto effective = EffectiveConfig(config, "input");
    // What a run writes down of itself is what it reads when it goes on.
    if (effective.ok()) {
      v1::RunConfig again;
      MNEMO_CHECK(ParseConfigText(PrintConfigText(*effective), "again", &again).ok());
      MNEMO_CHECK(again.SerializeAsString() == effective->SerializeAsString());
    }
  }
  std::vector<std::string> overrides;
  for (size_t begin = 0; begin < size;) {
    const size_t end = std::min(text.find('\n', begin), size);
    overrides.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  v1::RunConfig changed;
  if (ApplyOverrides(overrides, &changed).ok()) (void)CheckConfig(changed, "input");
  return 0;
}
