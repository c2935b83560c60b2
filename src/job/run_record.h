// What a training run writes beside its checkpoints: configuration, metrics, loss curve, model. Of
// the first rank only.
#pragma once

#include <cstdint>
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

  // To the losses if the step was not skipped, and to metrics.jsonl if it is `logged`. What cannot
  // be written is an error in the log, once, and missing: nobody's training depends on it.
  void Add(const v1::StepMetrics& metrics, bool logged);
  // Before a checkpoint. The same.
  void Sync();
  absl::Status WriteModel(const v1::RunConfig& config, const ParameterSet& parameters,
                          const Tokenizer& tokenizer) const;
  absl::Status WriteLossCurve() const;
  absl::Status Close();
  const LossCurves& losses() const { return losses_; }

 private:
  RunRecord(FileSystem& fs, const RunDirectory& directory, MetricsWriter metrics, LossCurves losses)
      : fs_(&fs), directory_(directory), metrics_(std::move(metrics)), losses_(std::move(losses)) {}

  FileSystem* fs_;
  RunDirectory directory_;
  MetricsWriter metrics_;
  LossCurves losses_;
  int64_t unwritten_ = 0;  // lines, since one could be written
  bool unsynced_ = false;  // and it was said
};

}  // namespace mnemo
