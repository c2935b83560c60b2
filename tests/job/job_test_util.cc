#include "tests/job/job_test_util.h"

#include <utility>

#include "src/core/random.h"
#include "src/core/status.h"
#include "src/job/shard_source.h"
#include "src/model/config_check.h"
#include "src/model/execution.h"

namespace mnemo {
namespace {

void AddSequence(const ModelSpec& spec, int64_t step, int index, int64_t length,
                 SliceBatch& batch) {
  const RandomStream random(7, step, "sequence " + std::to_string(index));
  const auto token = [&](int64_t t) {
    return static_cast<int32_t>(random.Below(t, static_cast<uint64_t>(spec.vocabulary)));
  };
  for (int64_t t = 0; t < length; ++t) {
    batch.tokens.push_back(token(t));
    batch.targets.push_back(t < index ? kNoTarget : token(t + 1));
    batch.valid += t < index ? 0 : 1;
  }
}

}  // namespace

v1::RunConfig TinyRun(v1::Block block) {
  v1::RunConfig config;
  v1::ModelConfig& model = *config.mutable_model();
  model.set_block(block);
  model.set_layers(2);
  model.set_width(16);
  model.set_heads(2);
  if (block != v1::TRANSFORMER) model.mutable_memory()->set_chunk(4);
  if (block == v1::MAC) model.mutable_attention()->set_segment(8);
  if (block != v1::MAC && block != v1::LMM) model.mutable_attention()->set_window(8);
  v1::TrainConfig& train = *config.mutable_train();
  train.set_steps(6);
  train.set_sequence_length(24);
  train.set_slice(8);
  train.mutable_optimizer()->set_learning_rate(1e-2);
  train.mutable_optimizer()->set_warmup_steps(2);
  config.mutable_execution()->set_threads(1);
  return config;
}

TrainingRunOptions TinyRunOptions(const v1::RunConfig& written, const std::string& directory) {
  TrainingRunOptions options;
  options.written = written;
  options.config_name = "tiny.textproto";
  options.run_directory = directory;
  options.check_memory = false;
  options.measure_machine = false;
  return options;
}

v1::RunConfig Effective(v1::RunConfig written, int vocabulary) {
  absl::StatusOr<v1::RunConfig> config = EffectiveConfig(written, "test");
  MNEMO_CHECK(config.ok(), "{}", std::string(config.status().message()));
  config->mutable_model()->set_vocabulary(vocabulary);
  return *std::move(config);
}

RandomSource::RandomSource(const v1::RunConfig& effective)
    : RandomSource(effective, {.accumulation = effective.train().accumulation(),
                               .micro_batches = effective.train().micro_batches()}) {}

RandomSource::RandomSource(const v1::RunConfig& effective, const StepShare& share)
    : config_(effective), share_(share), spec_(MakeSpec(effective.model())) {}

absl::StatusOr<StepTokens> RandomSource::Load(int64_t step) {
  const v1::TrainConfig& train = config_.train();
  const int all = train.accumulation() * train.micro_batches();
  const int own = share_.accumulation * share_.micro_batches;
  StepTokens result;
  std::vector<std::vector<SliceTokens>> micro_batches;
  for (int index = 0; index < all; ++index) {
    SliceBatch batch;
    batch.sequences = train.sequences();
    batch.length = train.sequence_length();
    for (int b = 0; b < train.sequences(); ++b) {
      AddSequence(spec_, step, index * train.sequences() + b, batch.length, batch);
    }
    result.tokens += batch.sequences * batch.length;
    result.valid_targets += batch.valid;
    if (index / own != share_.replica) continue;
    micro_batches.push_back(CutIntoSlices(spec_, batch, train.slice(),
                                          ComputeDType(config_.execution()),
                                          ComputeDevice(config_.execution())));
    // A rank has nothing but its own slices.
    for (size_t s = 0; s < micro_batches.back().size(); ++s) {
      if (static_cast<int>(s) % share_.sp_ranks != share_.sp_rank) micro_batches.back()[s] = {};
    }
    if (static_cast<int>(micro_batches.size()) == share_.micro_batches) {
      result.wavefronts.push_back(MakeTokenSource(std::exchange(micro_batches, {})));
    }
  }
  return result;
}

}  // namespace mnemo
