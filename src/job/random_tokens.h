// Steps of random tokens, for measurements: no data are read.
#pragma once

#include <map>
#include <string>

#include "mnemo/v1/config.pb.h"
#include "src/data/sample_stream.h"
#include "src/job/step_source.h"

namespace mnemo {

// The same tokens for every step: what they are costs no time.
class RandomTokens : public StepSource {
 public:
  // `config` is effective, its vocabulary is set, and it outlives this.
  explicit RandomTokens(const v1::RunConfig& config) : config_(config) {}
  absl::StatusOr<StepTokens> Load(int64_t step) override;

 private:
  SliceBatch MakeBatch(const std::string& name) const;

  const v1::RunConfig& config_;
  std::map<std::string, SliceBatch> batches_;
};

}  // namespace mnemo
