#include "src/job/run_start.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/manifest.h"
#include "src/core/config_difference.h"
#include "src/core/config_text.h"
#include "src/core/log.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr std::string_view kWayOut =
    "name another --run-dir, or add --overwrite to discard that run";

// What does not change which model is trained on which data in which order.
constexpr std::array<std::string_view, 16> kFree = {"train.steps",
                                                    "train.log_every",
                                                    "train.evaluate_every",
                                                    "train.evaluation_tokens",
                                                    "train.checkpoint_every",
                                                    "train.checkpoint_keep",
                                                    "train.checkpoint_keep_every",
                                                    "train.checkpoint_keep_best",
                                                    "train.checkpoint_minutes",
                                                    "train.checkpoint_async",
                                                    "train.rematerialize",
                                                    "train.vocabulary_tile",
                                                    "train.micro_batches",
                                                    "train.accumulation",
                                                    "train.sequences",
                                                    "execution."};
// How a step learns: may be changed on the way, but hardly by accident.
constexpr std::string_view kSaid = "train.optimizer.";

bool IsFree(const std::string& path) {
  if (path == "execution.precision") return false;
  if (path.starts_with("parallel.")) return true;
  if (path.starts_with("data.")) return path != "data.document_reset";
  return std::ranges::any_of(kFree, [&](std::string_view free) {
    return free.ends_with('.') ? path.starts_with(free) : path == free;
  });
}

// The first difference that makes it another run.
std::optional<ConfigDifference> FirstDifference(const v1::RunConfig& before,
                                                const v1::RunConfig& now) {
  for (const ConfigDifference& difference : ConfigDifferences(before, now)) {
    // They have been read; the checkpoint remembers which.
    if (difference.path == "train.init_from" && now.train().init_from().empty()) continue;
    if (!IsFree(difference.path) && !difference.path.starts_with(kSaid)) return difference;
  }
  return std::nullopt;
}

void WarnOfChanges(const v1::RunConfig& before, const v1::RunConfig& now) {
  for (const ConfigDifference& difference : ConfigDifferences(before, now)) {
    if (!difference.path.starts_with(kSaid)) continue;
    LogWarning("{} was {} before and is {} from here on", difference.path, difference.before,
               difference.after);
  }
}

absl::Status CheckSameRun(const std::string& what, const v1::RunConfig& before,
                          const v1::RunConfig& now) {
  const auto difference = FirstDifference(before, now);
  if (!difference) return absl::OkStatus();
  return FailedPrecondition("{} belongs to another run: {} was {} there and is {} here; {}", what,
                            difference->path, difference->before, difference->after, kWayOut);
}

// The checkpoint to go on from; null if there is none.
absl::StatusOr<const CheckpointEntry*> Choose(const std::vector<CheckpointEntry>& entries,
                                              const RunDirectory& directory,
                                              const StartRequest& request) {
  const std::optional<int64_t>& step = request.resume_step;
  const CheckpointEntry* newest = FindNewest(entries);
  for (const CheckpointEntry& entry : entries) {
    // It may be whole: neither an older one nor a beginning may take its place.
    if (IsNewerDamaged(entry, newest) && !IsKnownDamage(entry)) return entry.problem;
  }
  const CheckpointEntry* damaged = FindNewerDamaged(entries);
  if (damaged && request.strict) {
    return DataLoss("{}; without --strict the run goes on from the newest whole checkpoint",
                    std::string(damaged->problem.message()));
  }
  std::string problems;
  for (const CheckpointEntry& entry : entries) {
    if (!IsNewerDamaged(entry, newest)) continue;
    const std::string problem(entry.problem.message());
    if (newest) LogWarning("not going on from a DAMAGED checkpoint: {}", problem);
    problems += "; " + problem;
  }
  // To begin again would put new steps in the place of those that may still be saved.
  if (damaged && !newest) {
    return DataLoss("{} holds no whole checkpoint{}; {}", directory.checkpoints_path(), problems,
                    kWayOut);
  }
  if (!step || *step == (newest ? newest->name.step : 0)) return newest;
  const auto wanted = std::find_if(entries.rbegin(), entries.rend(), [&](const auto& entry) {
    return entry.state == CheckpointState::kWhole && entry.name.step == *step;
  });
  if (*step > 0 && wanted != entries.rend()) return &*wanted;
  return FailedPrecondition(
      "the coordinator goes on from step {}, but the newest whole checkpoint seen in {} is {}; "
      "make sure that all hosts see the same directory, and start the job again",
      *step, directory.checkpoints_path(),
      newest ? fmt::format("of step {}", newest->name.step) : "not there");
}

// Without a checkpoint: a run that has logged steps begins again if it is this one, whose steps
// will come out the same.
absl::StatusOr<RunStart> StartAnew(FileSystem& fs, const RunDirectory& directory,
                                   const StartRequest& request) {
  if (directory.HasModel()) {
    return FailedPrecondition(
        "{} holds a run that has ended (it has a model/) and no checkpoint; {}", directory.path(),
        kWayOut);
  }
  if (directory.HasMetrics()) {
    v1::RunConfig before;
    const absl::Status read = LoadConfigFile(fs, directory.config_path(), &before);
    if (!read.ok()) {
      return FailedPrecondition("{} holds a run of unknown configuration ({}); {}",
                                directory.path(), std::string(read.message()), kWayOut);
    }
    MNEMO_RETURN_IF_ERROR(CheckSameRun(
        fmt::format("{}, which was cut short before its first checkpoint,", directory.path()),
        before, request.config));
    LogWarning("{} holds a run that was cut short before its first checkpoint: it begins again",
               directory.path());
  }
  return RunStart{};
}

}  // namespace

absl::StatusOr<RunStart> DecideStart(FileSystem& fs, const RunDirectory& directory,
                                     const StartRequest& request) {
  if (request.overwrite) {
    MNEMO_RETURN_IF_ERROR(directory.Discard());
    return RunStart{};
  }
  MNEMO_ASSIGN_OR_RETURN(const auto entries, ListCheckpoints(fs, directory.checkpoints_path()));
  MNEMO_ASSIGN_OR_RETURN(const CheckpointEntry* entry, Choose(entries, directory, request));
  if (entry == nullptr) return StartAnew(fs, directory, request);
  const v1::CheckpointManifest& manifest = entry->manifest;
  MNEMO_RETURN_IF_ERROR(CheckSameRun(entry->path, manifest.config(), request.config));
  if (!Matches(manifest.training().data_digest(), request.data)) {
    return FailedPrecondition(
        "{} belongs to another run: data.shards hold other text than it was trained on (or the "
        "same in another order); {}",
        entry->path, kWayOut);
  }
  const int64_t step = manifest.training().step();
  if (step >= request.config.train().steps() && directory.HasModel()) {
    return FailedPrecondition(
        "{} holds a run that has ended: it has taken {} steps of {}, its model is in {}; raise "
        "train.steps (--steps) to train it further, {}",
        directory.path(), step, request.config.train().steps(), directory.model_path(), kWayOut);
  }
  WarnOfChanges(manifest.config(), request.config);
  return RunStart{step, entry->path, manifest.training().tokens_seen(),
                  manifest.training().initial_weights()};
}

}  // namespace mnemo
