// The frame of the `mnemo` command line. One subcommand is one file, src/cli/NAME_command.cc, with
// one function that declares its flags and says what it does:
//
//   void AddExportCommand(CLI::App& app, Action& chosen) {
//     auto options = std::make_shared<ExportOptions>();
//     CLI::App* command = app.add_subcommand("export", "Write a model's weights as safetensors.");
//     command->add_option("--out", options->out, "Directory to write")->required();
//     command->add_option("--tile", options->tile, "Columns held at once")->capture_default_str();
//     command->callback([&chosen, options] { chosen = [options] { return Export(*options); }; });
//   }
//
// To add one: write the file, add it to src/cli/CMakeLists.txt, declare its function below and
// list it in AllCommands in commands.cc. A help text names the unit of every number, and
// capture_default_str() shows the default. A command only parses and prints: what it does lives in
// the folders below.
//
// Commands run after the whole line has been parsed. Results go to stdout; logs, progress and
// errors to stderr.
#pragma once

#include <concepts>
#include <functional>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace mnemo {

// Exit codes.
inline constexpr int kExitOk = 0;
inline constexpr int kExitError = 1;  // the command failed: `mnemo: error: ...` on stderr
inline constexpr int kExitUsage = 2;  // the line made no sense: `mnemo: usage: ...` on stderr
// As kExitError, of a command that answers by its exit code and means something else by 1.
inline constexpr int kExitNoAnswer = 3;

// What a parsed command line does, and what the shell is told.
class Action {
 public:
  Action() = default;
  // Exit code 0, or kExitError after an error. Of a callable that returns absl::Status.
  template <typename Run>
  requires std::same_as<std::invoke_result_t<Run&>, absl::Status> Action(Run run)
      : Action(
            [run = std::move(run)]() mutable -> absl::StatusOr<int> {
              const absl::Status status = run();
              if (status.ok()) return kExitOk;
              return status;
            },
            kExitError) {}
  // A command that answers by its exit code, which `run` returns; its help says what the codes
  // mean. `on_error`: after an error, or an exception.
  Action(std::function<absl::StatusOr<int>()> run, int on_error)
      : run_(std::move(run)), on_error_(on_error) {}

  absl::StatusOr<int> Run() const { return run_(); }
  int on_error() const { return on_error_; }

 private:
  std::function<absl::StatusOr<int>()> run_;
  int on_error_ = kExitError;
};

// Adds a subcommand to `app`; when that subcommand is given, its callback sets `chosen`. Both
// outlive the parsing and the action.
using AddCommand = void (*)(CLI::App& app, Action& chosen);

// The subcommands.
void AddTrainCommand(CLI::App& app, Action& chosen);
void AddPlanCommand(CLI::App& app, Action& chosen);
void AddDataCommand(CLI::App& app, Action& chosen);  // data prepare, data inspect
void AddEvalCommand(CLI::App& app, Action& chosen);
void AddExportCommand(CLI::App& app, Action& chosen);
void AddCkptCommand(CLI::App& app, Action& chosen);  // ckpt ls, show, verify, ..
void AddGenerateCommand(CLI::App& app, Action& chosen);
void AddBenchCommand(CLI::App& app, Action& chosen);
void AddCoordinateCommand(CLI::App& app, Action& chosen);
void AddStatusCommand(CLI::App& app, Action& chosen);
void AddSaveCommand(CLI::App& app, Action& chosen);
void AddStopCommand(CLI::App& app, Action& chosen);

// All of them, in the order in which --help lists them.
std::span<const AddCommand> AllCommands();

// Parses, runs and reports. Of an error with an empty message nothing is said: another process of
// the job does. Exceptions that escape an action are reported like a failed Status. An
// error is one line, except that a Status which lists several problems keeps one line for each.
int RunCommandLine(int argc, const char* const* argv, std::span<const AddCommand> commands);

// `mnemo 0.1.0, commit 0123456789ab, Release, GNU 12.2.0`.
std::string_view VersionText();

}  // namespace mnemo
