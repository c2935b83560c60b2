// What a training run writes beside its checkpoints: configuration, metrics, loss curve, model. Of
// the first rank only.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "mnemo/v1/job.pb.h"
#include "src/core/file_system.h"
#include "src/data/tokenizer.h"
#include "src/job/loss_plot.h"
#include "src/job/metrics.h"
#include "src/job/run_directory.h"
#include "src/job/run_start.h"
#include "src/model/parameters.h"

namespace mnemo {

class RunRecord {
 public:
  // Writes the configuration and opens the metrics: of a run that goes on, cut back to where it
  // does, with the losses so far. `fs` outlives it.
  static absl::StatusOr<RunRecord> Open(FileSystem& fs, const RunDirectory& directory,
                                        const RunStart& start, const v1::RunConfig& config);

  // To the losses if the step was not skipped, and to metrics.jsonl if it is `logged`.
  absl::Status Add(const v1::StepMetrics& metrics, bool logged);
  absl::Status Sync() { return metrics_.Sync(); }
  absl::Status WriteModel(const v1::RunConfig& config, const ParameterSet& parameters,
                          const Tokenizer& tokenizer) const;
  absl::Status WriteLossCurve() const;
  absl::Status Close() { return metrics_.Close(); }
  const LossCurves& losses() const { return losses_; }

 private:
  RunRecord(FileSystem& fs, const RunDirectory& directory, MetricsWriter metrics, LossCurves losses)
      : fs_(&fs), directory_(directory), metrics_(std::move(metrics)), losses_(std::move(losses)) {}

  FileSystem* fs_;
  RunDirectory directory_;
  MetricsWriter metrics_;
  LossCurves losses_;
};

}  // namespace mnemo
