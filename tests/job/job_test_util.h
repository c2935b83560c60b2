// What the tests of src/job share: a tiny configuration, and tokens without shards.
#pragma once

#include <string>

#include "mnemo/v1/config.pb.h"
#include "src/job/shard_source.h"
#include "src/job/training_run.h"
#include "src/model/spec.h"

namespace mnemo {

inline constexpr int kTinyVocabulary = 17;

// A tiny model as a user writes it: d 16, 2 heads, 2 layers, sequences of 24 tokens in slices of
// 8, chunk 4, 6 steps.
v1::RunConfig TinyRun(v1::Block block = v1::LMM);
// With its defaults filled in and a vocabulary. Takes a configuration like TinyRun's.
v1::RunConfig Effective(v1::RunConfig written, int vocabulary = kTinyVocabulary);

// A run of it into `directory`, which looks at neither the memory nor the speed of the machine.
TrainingRunOptions TinyRunOptions(const v1::RunConfig& written, const std::string& directory);

// Sequences that depend on (step, index) alone, however the step is cut into wavefronts and
// micro-batches. The first `index` targets of sequence `index` are masked, so that sequences differ
// in their number of targets.
class RandomSource : public StepSource {
 public:
  explicit RandomSource(const v1::RunConfig& effective);
  // One rank's share of the same steps.
  RandomSource(const v1::RunConfig& effective, const StepShare& share);
  absl::StatusOr<StepTokens> Load(int64_t step) override;

 private:
  v1::RunConfig config_;
  StepShare share_;
  ModelSpec spec_;
};

}  // namespace mnemo
