#include "src/cli/command.h"

#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <map>
#include <new>
#include <string>

#include "src/core/log.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

constexpr std::string_view kDescription =
    "Mnemosyne trains Titans models: language models with a memory that learns while it reads.";

const std::map<std::string, LogLevel>& LogLevels() {
  static const auto* levels = new std::map<std::string, LogLevel>{{"debug", LogLevel::kDebug},
                                                                  {"info", LogLevel::kInfo},
                                                                  {"warning", LogLevel::kWarning},
                                                                  {"error", LogLevel::kError}};
  return *levels;
}

absl::Status RunAction(const Action& action) {
  try {
    return action();
  } catch (const TensorError& error) {
    return error.status();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        "out of memory: use a smaller slice, fewer sequences, or rematerialize: SLICES");
  } catch (const std::exception& error) {
    return absl::InternalError(fmt::format("unexpected: {}", error.what()));
  }
}

int ReportUsage(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* at = &app;
  std::string path = "mnemo";
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().front();
    path += " " + at->get_name();
  }
  fmt::print(stderr, "mnemo: usage: {} (`{} --help` lists what there is)\n", error.what(), path);
  return kExitUsage;
}

}  // namespace

int RunCommandLine(int argc, const char* const* argv, std::span<const AddCommand> commands) {
  CLI::App app{std::string(kDescription), "mnemo"};
  app.require_subcommand(1);
  app.fallthrough();  // --log-level may also follow the subcommand
  app.get_formatter()->column_width(34);
  app.set_help_all_flag("--help-all", "Help of all subcommands");
  app.set_version_flag("--version", std::string(VersionText()));
  std::string level = "info";
  app.add_option("--log-level", level, "Least level logged: debug, info, warning or error")
      ->check(CLI::IsMember(&LogLevels()))
      ->capture_default_str();
  Action chosen;
  for (AddCommand add : commands) add(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return error.get_exit_code() == 0 ? app.exit(error) : ReportUsage(app, error);
  }
  SetLogLevel(LogLevels().at(level));
  const absl::Status status = RunAction(chosen);
  std::fflush(stdout);
  if (status.ok()) return kExitOk;
  fmt::print(stderr, "mnemo: error: {}\n", std::string(status.message()));
  return kExitError;
}

}  // namespace mnemo
