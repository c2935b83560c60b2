// status, save and stop: what users ask of a running job.
#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "src/cli/command.h"
#include "src/core/status.h"
#include "src/job/progress_line.h"
#include "src/job/service/job_client.h"
#include "src/job/service/service_files.h"

namespace mnemo {
namespace {

constexpr int kBarWidth = 24;  // characters

struct StatusOptions {
  std::string run;
  bool watch = false, json = false, without_checkpoint = false;
};

// "[######------------------]".
std::string Bar(int64_t step, int64_t steps) {
  const double share = steps > 0 ? static_cast<double>(step) / static_cast<double>(steps) : 0;
  const int full = std::clamp(static_cast<int>(share * kBarWidth), 0, kBarWidth);
  return fmt::format("[{:#<{}}{:-<{}}]", "", full, "", kBarWidth - full);
}

std::string ProgressText(const v1::JobStatus& status) {
  Progress progress;
  progress.step = status.step();
  progress.steps = status.steps();
  progress.loss = status.last().loss();
  progress.tokens_per_second = status.last().tokens_per_second();
  if (status.seconds_left() > 0) progress.seconds_left = status.seconds_left();
  return fmt::format("{} {}  {}", v1::JobState_Name(status.state()),
                     Bar(status.step(), status.steps()), FormatProgress(progress));
}

std::string ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions print;
  print.always_print_primitive_fields = true;
  print.preserve_proto_field_names = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, print);
  return status.ok() ? text : "{}";
}

void PrintStatus(const v1::JobStatus& status, const v1::ListWorkersResponse& workers) {
  fmt::print("{}: {}\n", status.run(), ProgressText(status));
  if (!status.error().empty()) fmt::print("error: {}\n", status.error());
  fmt::print("checkpoint: {}\n", status.last_checkpoint_step() > 0
                                     ? fmt::format("step {}", status.last_checkpoint_step())
                                     : "none");
  fmt::print("workers: {} of {} live\n", status.workers_live(), status.workers());
  for (const v1::WorkerInfo& worker : workers.workers()) {
    if (worker.state() == v1::WORKER_STATE_UNSPECIFIED) {
      fmt::print("  rank {:<4} has not joined\n", worker.rank());
      continue;
    }
    fmt::print("  rank {:<4} {:<6}  {} (process {}){}  step {}, {}, heard of {:.1f} s ago\n",
               worker.rank(), v1::WorkerState_Name(worker.state()), worker.host(), worker.process(),
               worker.device().empty() ? "" : "  " + worker.device(), worker.step(),
               worker.last_operation(), worker.seconds_since_report());
  }
}

// What the run directory says, where no coordinator does.
absl::Status WithoutCoordinator(const std::string& run, const absl::Status& why) {
  const JobHistory history = ReadJobHistory(FileSystem::Posix(), run);
  if (history.last.step() == 0) return why;
  return absl::Status(
      why.code(),
      fmt::format("{}; its metrics end at step {}, loss {:.3f}{}", std::string(why.message()),
                  history.last.step(), history.last.loss(),
                  history.checkpoint_step > 0 ? fmt::format(", its newest checkpoint is of step {}",
                                                            history.checkpoint_step)
                                              : ""));
}

// One line that is rewritten on a terminal, and a JSON object a line with --json.
absl::Status WatchJob(const JobClient& client, bool json) {
  ProgressLine line = ProgressLine::ForStderr(0);
  v1::JobStatus last;
  const absl::Status watched = client.Watch(1, [&](const v1::JobUpdate& update) {
    last = update.status();
    if (json) {
      fmt::print("{}\n", ToJson(update));
      std::fflush(stdout);
    } else {
      line.Show(ProgressText(last), ProgressLine::Now(),
                last.state() == v1::FINISHED || last.state() == v1::FAILED);
    }
    return true;
  });
  line.Finish();
  if (last.state() == v1::FAILED) return absl::AbortedError(last.error());
  return watched;
}

absl::Status ShowStatus(const StatusOptions& options) {
  absl::StatusOr<JobClient> client = JobClient::Open(options.run);
  if (!client.ok()) return WithoutCoordinator(options.run, client.status());
  if (options.watch) return WatchJob(*client, options.json);
  const auto status = client->GetStatus();
  if (!status.ok()) return WithoutCoordinator(options.run, status.status());
  if (options.json) {
    fmt::print("{}\n", ToJson(*status));
    return absl::OkStatus();
  }
  MNEMO_ASSIGN_OR_RETURN(const v1::ListWorkersResponse workers, client->ListWorkers());
  PrintStatus(*status, workers);
  return absl::OkStatus();
}

absl::Status Save(const StatusOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const JobClient client, JobClient::Open(options.run));
  MNEMO_ASSIGN_OR_RETURN(const v1::SaveCheckpointResponse saved, client.SaveCheckpoint());
  fmt::print("saved step {} in {}\n", saved.step(), saved.path());
  return absl::OkStatus();
}

absl::Status Stop(const StatusOptions& options) {
  MNEMO_ASSIGN_OR_RETURN(const JobClient client, JobClient::Open(options.run));
  MNEMO_ASSIGN_OR_RETURN(const v1::StopResponse stopped, client.Stop(options.without_checkpoint));
  fmt::print("asked to stop; it will end after step {}\n", stopped.last_step());
  return absl::OkStatus();
}

CLI::App* AddJobCommand(CLI::App& app, Action& chosen, const char* name, const char* text,
                        std::shared_ptr<StatusOptions> options,
                        absl::Status (*run)(const StatusOptions&)) {
  CLI::App* command = app.add_subcommand(name, text);
  command->add_option("run", options->run, "The run's directory")->required()->type_name("RUN");
  command->callback([&chosen, options, run] { chosen = [options, run] { return run(*options); }; });
  return command;
}

}  // namespace

void AddStatusCommand(CLI::App& app, Action& chosen) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command = AddJobCommand(
      app, chosen, "status", "How far a job is, and how its ranks are.", options, ShowStatus);
  command->add_flag("--watch", options->watch, "Go on until the job ends; fails if the job does");
  command->add_flag("--json", options->json, "JSON instead, one object a line");
}

void AddSaveCommand(CLI::App& app, Action& chosen) {
  AddJobCommand(app, chosen, "save", "Let a job write a checkpoint, and wait for it.",
                std::make_shared<StatusOptions>(), Save);
}

void AddStopCommand(CLI::App& app, Action& chosen) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command = AddJobCommand(
      app, chosen, "stop", "Let a job finish its step, write a checkpoint and end.", options, Stop);
  command->add_flag("--without-checkpoint", options->without_checkpoint, "Write none");
}

}  // namespace mnemo
