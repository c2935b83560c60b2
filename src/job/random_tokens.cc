#include "src/job/random_tokens.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "src/core/random.h"
#include "src/job/shard_source.h"
#include "src/model/execution.h"
#include "src/model/spec.h"

namespace mnemo {

absl::StatusOr<StepTokens> RandomTokens::Load(int64_t) {
  const v1::TrainConfig& train = config_.train();
  const ModelSpec spec = MakeSpec(config_.model());
  StepTokens step;
  for (int a = 0; a < train.accumulation(); ++a) {
    std::vector<std::vector<SliceTokens>> micro_batches;
    for (int m = 0; m < train.micro_batches(); ++m) {
      SliceBatch& batch = batches_[fmt::format("tokens/{}/{}", a, m)];
      if (batch.tokens.empty()) batch = MakeBatch(fmt::format("tokens/{}/{}", a, m));
      step.tokens += static_cast<int64_t>(batch.tokens.size());
      micro_batches.push_back(CutIntoSlices(spec, batch, train.slice(),
                                            ComputeDType(config_.execution()),
                                            ComputeDevice(config_.execution())));
    }
    step.wavefronts.push_back(MakeTokenSource(std::move(micro_batches)));
  }
  step.valid_targets = step.tokens;
  return step;
}

SliceBatch RandomTokens::MakeBatch(const std::string& name) const {
  const v1::TrainConfig& train = config_.train();
  const RandomStream random(train.seed(), 0, name);
  SliceBatch batch;
  batch.sequences = train.sequences();
  batch.length = train.sequence_length();
  const auto vocabulary = static_cast<uint64_t>(config_.model().vocabulary());
  const int64_t count = batch.sequences * batch.length;
  for (int64_t i = 0; i < count; ++i) {
    batch.tokens.push_back(static_cast<int32_t>(random.Below(2 * i, vocabulary)));
    batch.targets.push_back(static_cast<int32_t>(random.Below(2 * i + 1, vocabulary)));
  }
  return batch;
}

}  // namespace mnemo
