#include "src/model/config_defaults.h"
#include "tests/model/block_comparison.h"
#include "tests/model/tiny_model.h"

namespace mnemo::testing {
namespace {

constexpr int kSequences = 2;

// Flags where documents begin at those groups of either sequence.
std::vector<uint8_t> Flags(int64_t groups, const std::vector<int64_t>& first,
                           const std::vector<int64_t>& second) {
  std::vector<uint8_t> flags(kSequences * groups, 0);
  for (const int64_t group : first) flags[group] = 1;
  for (const int64_t group : second) flags[groups + group] = 1;
  return flags;
}

void AddTiny(std::vector<BlockCase>& cases) {
  const std::vector<TinyModel> models = AllTinyModels();
  for (size_t i = 0; i < models.size(); ++i) {
    ModelSpec spec = models[i].spec;
    spec.layers = 1;
    const std::string name = "tiny_" + TestNameOf(static_cast<int>(i));
    const int64_t step = spec.alignment() == 1 ? 4 : spec.alignment();
    const int64_t groups = 3 * step / spec.alignment();
    cases.push_back({name + "_begins", spec, 0, 3 * step});
    cases.push_back({name + "_goes_on", spec, 2 * step, 2 * step});
    // The next slice would find an open chunk, or segment.
    cases.push_back({name + "_ends_inside", spec, step, step + 3});
    cases.push_back({name + "_inside_to_inside", spec, step + 1, step});
    cases.push_back({name + "_documents", spec, step, 3 * step,
                     Flags(groups, {groups / 3, 2 * groups / 3}, {0})});
  }
}

// Defaults, at the width of two heads of 64.
ModelSpec WideSpec(v1::Block block, const std::function<void(v1::ModelConfig&)>& change) {
  v1::RunConfig config;
  v1::ModelConfig& model = *config.mutable_model();
  model.set_block(block);
  model.set_layers(1);
  model.set_width(128);
  model.set_heads(2);
  model.set_vocabulary(64);
  model.mutable_attention()->set_persistent_tokens(8);
  model.mutable_attention()->set_window(96);
  model.mutable_attention()->set_segment(64);
  if (change) change(model);
  FillDefaults(config);
  return MakeSpec(config.model());
}

void AddWide(std::vector<BlockCase>& cases) {
  const auto add = [&](const char* name, v1::Block block,
                       const std::function<void(v1::ModelConfig&)>& change = {}) {
    const ModelSpec spec = WideSpec(block, change);
    cases.push_back({std::string(name) + "_begins", spec, 0, 128, {}, true});
    cases.push_back({std::string(name) + "_goes_on", spec, 128, 128, {}, true});
  };
  add("lmm", v1::LMM);
  add("mac", v1::MAC);
  add("mag", v1::MAG);
  add("mal", v1::MAL);
  add("transformer", v1::TRANSFORMER);
  add("transformer_full", v1::TRANSFORMER, [](v1::ModelConfig& model) {
    model.mutable_attention()->set_window(0);
    model.mutable_attention()->set_persistent_tokens(0);
  });
  add("lmm_chunk_64_options", v1::LMM, [](v1::ModelConfig& model) {
    model.mutable_memory()->set_chunk(64);
    model.mutable_memory()->set_forget_towards(v1::INITIAL);
    model.mutable_memory()->set_clamp(15);
  });
  add("mag_linear", v1::MAG, [](v1::ModelConfig& model) { model.mutable_memory()->set_depth(1); });
  add("mal_ttt_linear", v1::MAL,
      [](v1::ModelConfig& model) { model.mutable_memory()->set_preset(v1::TTT_LINEAR); });

  const ModelSpec lmm = WideSpec(v1::LMM, {});
  cases.push_back({"lmm_ends_inside", lmm, 64, 69, {}, true});
  // Convolutions and attention over documents are composed.
  const auto chunk_16 = [](v1::ModelConfig& model) { model.mutable_memory()->set_chunk(16); };
  for (const auto& [name, block] : {std::pair("lmm", v1::LMM), std::pair("mag", v1::MAG)}) {
    cases.push_back({std::string(name) + "_documents", WideSpec(block, chunk_16), 64, 128,
                     Flags(8, {3, 6}, {0, 5})});
  }
  cases.push_back({"mac_documents", WideSpec(v1::MAC, {}), 64, 128, Flags(2, {1}, {0})});
}

}  // namespace

std::vector<BlockCase> BlockCases() {
  std::vector<BlockCase> cases;
  AddTiny(cases);
  AddWide(cases);
  return cases;
}

}  // namespace mnemo::testing
