#include "src/job/run_record.h"

#include <filesystem>
#include <utility>

#include "src/core/config_text.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/model/saved_model.h"

namespace mnemo {

absl::StatusOr<RunRecord> RunRecord::Open(FileSystem& fs, const RunDirectory& directory,
                                          const RunStart& start, const v1::RunConfig& config) {
  MNEMO_RETURN_IF_ERROR(directory.RemoveModel());
  if (start.checkpoint.empty()) MNEMO_RETURN_IF_ERROR(directory.RemoveRecord());
  MNEMO_RETURN_IF_ERROR(directory.WriteConfig(PrintConfigText(config)));
  MNEMO_ASSIGN_OR_RETURN(LossCurves losses, CutMetrics(fs, directory.metrics_path(), start.step));
  const std::filesystem::path path = directory.path();
  losses.title = (path.has_filename() ? path : path.parent_path()).filename().string();
  MNEMO_ASSIGN_OR_RETURN(MetricsWriter metrics,
                         MetricsWriter::Append(fs, directory.metrics_path()));
  return RunRecord(fs, directory, std::move(metrics), std::move(losses));
}

void RunRecord::Add(const v1::StepMetrics& metrics, bool logged) {
  if (!metrics.skipped()) losses_.train.push_back({metrics.step(), metrics.loss()});
  if (metrics.has_evaluation_loss()) {
    losses_.held_out.push_back({metrics.step(), metrics.evaluation_loss()});
  }
  if (!logged) return;
  const absl::Status written = metrics_.Write(metrics);
  if (!written.ok()) {
    if (unwritten_++ > 0) return;
    LogError(
        "STEP {} IS NOT RECORDED: {}; training goes on, with no line in {} until there is room",
        metrics.step(), std::string(written.message()), directory_.metrics_path());
  } else if (unwritten_ > 0) {
    LogWarning("{} is written again, from step {} on; the {} lines before are missing",
               directory_.metrics_path(), metrics.step(), std::exchange(unwritten_, 0));
  }
}

void RunRecord::Sync() {
  const absl::Status synced = metrics_.Sync();
  if (!synced.ok() && !unsynced_) {
    LogError("{}; training goes on, but its last lines may be lost with this host",
             std::string(synced.message()));
  }
  unsynced_ = !synced.ok();
}

absl::Status RunRecord::Close() {
  if (unwritten_ > 0) {
    LogError("{} misses its last {} lines, which could not be written", directory_.metrics_path(),
             unwritten_);
  }
  return metrics_.Close();
}

absl::Status RunRecord::WriteModel(const v1::RunConfig& config, const ParameterSet& parameters,
                                   const Tokenizer& tokenizer) const {
  return SaveModel(*fs_, directory_.model_path(), config, parameters, tokenizer);
}

absl::Status RunRecord::WriteLossCurve() const {
  return WriteFileAtomically(*fs_, directory_.loss_curve_path(), LossCurveSvg(losses_));
}

}  // namespace mnemo
