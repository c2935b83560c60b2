#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>

#include "src/cli/command.h"
#include "src/cli/config_flags.h"
#include "src/cli/plan_flags.h"
#include "src/core/log.h"
#include "src/core/status.h"
#include "src/data/token_set.h"
#include "src/job/initial_weights.h"
#include "src/job/run_data.h"
#include "src/job/run_directory.h"
#include "src/job/service/coordinator.h"
#include "src/job/service/service_files.h"
#include "src/job/stop_signals.h"

namespace mnemo {
namespace {

struct CoordinateOptions {
  ConfigFlags config;
  PlanFlags plan;
  CoordinatorOptions serve;
  bool overwrite = false;
};

// Not what ranks may still be writing: those of a coordinator that died train on.
absl::Status Discard(const std::string& run) {
  FileSystem& fs = FileSystem::Posix();
  MNEMO_ASSIGN_OR_RETURN(const auto lock, LockForCoordinator(fs, run));
  if (fs.Exists(CoordinatorFilePath(run))) {
    const absl::StatusOr<CoordinatorFile> dead = ReadCoordinatorFile(fs, run);
    return FailedPrecondition(
        "{} is not discarded: its coordinator{} died, and its ranks may be training; go on without "
        "--overwrite, or see that they have ended, remove {} and try again",
        run, dead.ok() ? fmt::format(" (process {} on {})", dead->process, dead->host) : "",
        CoordinatorFilePath(run));
  }
  MNEMO_ASSIGN_OR_RETURN(const RunDirectory directory, RunDirectory::Open(fs, run));
  return directory.Discard();
}

// Ranks may be started in another directory than this one.
void MakeAbsolute(google::protobuf::RepeatedPtrField<std::string>& paths) {
  for (std::string& path : paths) path = std::filesystem::absolute(path).lexically_normal();
}

absl::Status Coordinate(CoordinateOptions options) {
  JobTerms& terms = options.serve.terms;
  MNEMO_ASSIGN_OR_RETURN(v1::RunConfig written, options.config.Load());
  MakeAbsolute(*written.mutable_data()->mutable_shards());
  MakeAbsolute(*written.mutable_data()->mutable_evaluation());
  const auto& shards = written.data().shards();
  if (shards.empty()) {
    return InvalidArgument("{}: data.shards is empty: name token shards with --shards",
                           options.config.path);
  }
  MNEMO_ASSIGN_OR_RETURN(const auto set,
                         TokenSet::Open({shards.begin(), shards.end()}, ShardRole::kTraining));
  MNEMO_ASSIGN_OR_RETURN(terms.config,
                         ResolveConfig(written, options.config.path, set->tokenizer()));
  terms.workers = options.plan.RanksOf(terms.config);
  MNEMO_ASSIGN_OR_RETURN(terms.plan, options.plan.Plan(terms.config, options.config.path));
  const std::filesystem::path run = options.serve.run_directory;
  terms.run = (run.has_filename() ? run : run.parent_path()).filename().string();
  terms.build = VersionText();
  if (options.overwrite) {
    // The ranks look for them too, but when it is too late.
    MNEMO_ASSIGN_OR_RETURN(const std::string weights,
                           FindInitialWeights(FileSystem::Posix(), terms.config, set->tokenizer(),
                                              options.serve.run_directory));
    MNEMO_RETURN_IF_ERROR(VerifyInitialWeights(FileSystem::Posix(), weights, terms.config.model()));
    MNEMO_RETURN_IF_ERROR(Discard(options.serve.run_directory));
  }
  const StopSignals signals;
  options.serve.should_stop = [] { return StopSignals::Received() != nullptr; };
  return RunCoordinator(options.serve);
}

}  // namespace

void AddCoordinateCommand(CLI::App& app, Action& chosen) {
  auto options = std::make_shared<CoordinateOptions>();
  CoordinatorOptions& serve = options->serve;
  CLI::App* command = app.add_subcommand(
      "coordinate",
      "Coordinate a job of many ranks: plan it, let its ranks join, answer `mnemo status`. Ends "
      "with the job, with 0 if that finished. SIGINT and SIGTERM ask the ranks to save and end.");
  options->config.AddTo(*command);
  options->config.AddRunTo(*command);
  command->add_flag("--overwrite", options->overwrite,
                    "Discard the run, with its model and checkpoints, that the run directory "
                    "holds. Refused after a coordinator that died: its ranks may be alive");
  command->add_option("--run-dir", serve.run_directory, "The run's directory, shared by all ranks")
      ->required()
      ->type_name("DIR");
  options->plan.AddTo(*command, "--workers");
  command
      ->add_option("--listen", serve.listen,
                   "Address to listen on; beyond loopback nothing is encrypted. Default: a free "
                   "port of 127.0.0.1")
      ->type_name("HOST:PORT");
  command
      ->add_option("--silent-seconds", serve.terms.silent_seconds,
                   "Without a word from a rank, after which it is lost and the job failed")
      ->check(CLI::Range(0.5, 86400.0))
      ->capture_default_str();
  command
      ->add_option("--join-seconds", serve.terms.join_seconds,
                   "For all ranks to join, from when the coordinator has started")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  command->callback([&chosen, options] { chosen = [options] { return Coordinate(*options); }; });
}

}  // namespace mnemo
