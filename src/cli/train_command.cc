#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "src/cli/command.h"
#include "src/cli/config_flags.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/job/loss_plot.h"
#include "src/job/progress_line.h"
#include "src/job/stop_signals.h"
#include "src/job/worker/worker_run.h"
#include "src/parallel/plan.h"

namespace mnemo {
namespace {

struct TrainOptions {
  ConfigFlags config;
  std::string run_directory;
  bool overwrite = false;
  bool strict = false;
  bool no_memory_check = false;
  double join_seconds = WorkerRunOptions().join_seconds;
};

Progress ProgressOf(const v1::StepMetrics& metrics, int64_t steps) {
  Progress progress;
  progress.step = metrics.step();
  progress.steps = steps;
  progress.loss = metrics.loss();
  progress.tokens_per_second = metrics.tokens_per_second();
  progress.speed_of_light = metrics.speed_of_light_share();
  return progress;
}

void PrintSummary(const TrainingRunResult& result) {
  fmt::print("{}", LossCurveText(result.losses, TerminalTakesUnicode()));
  if (!result.losses.train.empty()) {
    fmt::print("loss {:.4f} -> {:.4f}", result.losses.train.front().loss,
               result.losses.train.back().loss);
  }
  if (!result.losses.held_out.empty()) {
    fmt::print(", held-out {:.4f}", result.losses.held_out.back().loss);
  }
  fmt::print(
      "\n{} steps{} in {}{}{}\n", result.steps,
      result.first_step > 0 ? fmt::format(", {} of them now,", result.steps - result.first_step)
                            : "",
      FormatDuration(result.seconds), result.stopped ? ", stopped" : "",
      result.skipped_steps > 0 ? fmt::format(", {} skipped as not finite", result.skipped_steps)
                               : "");
  if (result.peak_bytes > 0) {  // 0: all steps were an earlier run's
    const double share =
        static_cast<double>(result.planned_bytes) / static_cast<double>(result.peak_bytes);
    fmt::print("memory: peak {}, planned {} ({:+.1f} %)\n", PrintBytes(result.peak_bytes),
               PrintBytes(result.planned_bytes), 100 * (share - 1));
  }
  if (result.failed_saves > 0) {
    fmt::print("{} of the saves failed; the log says why\n", result.failed_saves);
  }
  if (!result.checkpoint.empty()) fmt::print("checkpoint in {}\n", result.checkpoint);
  fmt::print("model in {}\n", result.model_directory);
}

absl::Status CheckFlags(const TrainOptions& options) {
  const ConfigFlags& config = options.config;
  if (!config.path.empty()) return absl::OkStatus();
  const bool plain = config.overrides.empty() && config.shards.empty() &&
                     config.evaluation.empty() && config.init_from.empty() && !config.steps &&
                     !config.every && !config.keep;
  if (plain && !options.overwrite) return absl::OkStatus();
  return InvalidArgument(
      "without CONFIG the run is the coordinator's: give CONFIG, --set, --steps, --shards, "
      "--eval-shards, --every, --keep, --init-from and --overwrite to `mnemo coordinate`");
}

absl::Status Train(const TrainOptions& options) {
  MNEMO_RETURN_IF_ERROR(CheckFlags(options));
  WorkerRunOptions worker;
  worker.join = options.config.path.empty();
  worker.join_seconds = options.join_seconds;
  TrainingRunOptions& run = worker.run;
  if (!worker.join) {
    MNEMO_ASSIGN_OR_RETURN(run.written, options.config.Load());
  }
  run.config_name = options.config.path;
  run.run_directory = options.run_directory;
  run.overwrite = options.overwrite;
  run.strict = options.strict;
  run.check_memory = !options.no_memory_check;
  run.writer = VersionText();
  ProgressLine line = ProgressLine::ForStderr(0);
  int64_t steps = 0;
  run.on_start = [&](const v1::RunConfig& effective, const v1::Plan& plan, int64_t first_step) {
    steps = effective.train().steps();
    LogInfo("{} parameters, {} tokens a step, {} planned", plan.step().parameters(),
            plan.step().tokens(), PrintBytes(plan.memory().total()));
    line = ProgressLine::ForStderr(first_step);
  };
  run.on_step = [&](const v1::StepMetrics& metrics) {
    line.Update(ProgressOf(metrics, steps), ProgressLine::Now());
  };
  absl::StatusOr<TrainingRunResult> result = RunWorker(std::move(worker));
  line.Finish();
  MNEMO_RETURN_IF_ERROR(result.status());
  if (result->first_rank) PrintSummary(*result);
  return absl::OkStatus();
}

}  // namespace

void AddTrainCommand(CLI::App& app, Action& chosen) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand(
      "train",
      "Train a model, or go on where the run directory's newest checkpoint was. Writes "
      "config.textproto, metrics.jsonl, loss.svg, checkpoints/ and model/ into it. SIGINT and "
      "SIGTERM finish the step at hand, save and end with 0; SIGUSR1 saves and goes on. Under "
      "mpirun each process is a rank; without CONFIG it joins the run's coordinator.");
  options->config.AddTo(*command);
  options->config.AddRunTo(*command);
  command->get_option("config")->required(false);
  command
      ->add_option("--run-dir,--run", options->run_directory,
                   "Directory for all that the run writes")
      ->required()
      ->type_name("DIR");
  command->add_flag("--overwrite", options->overwrite,
                    "Discard the run, with its model and checkpoints, that the run directory "
                    "holds");
  command->add_flag("--strict", options->strict,
                    "End with an error where the newest checkpoint is damaged, instead of going on "
                    "from the newest whole one");
  command->add_flag("--no-memory-check", options->no_memory_check,
                    "Run what is planned to need more memory than there is");
  command
      ->add_option("--join-seconds", options->join_seconds,
                   "For the coordinator to answer, where there is no CONFIG")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  command->callback([&chosen, options] { chosen = [options] { return Train(*options); }; });
}

}  // namespace mnemo
