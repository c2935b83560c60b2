#include "src/cli/command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <map>
#include <new>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "src/core/log.h"
#include "src/core/status.h"
#include "src/model/door.h"

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

absl::StatusOr<int> RunAction(const Action& action) {
  try {
    return action.Run();
  } catch (const TensorError& error) {
    return error.status();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  } catch (const std::exception& error) {
    return absl::InternalError(fmt::format("unexpected: {}", error.what()));
  }
}

// Letters to add, take away or replace to get from one word to the other.
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, replaced});
    }
  }
  return row.back();
}

// The command that was reached and its words, as in "mnemo bench".
std::pair<const CLI::App*, std::string> Reached(const CLI::App& app) {
  const CLI::App* at = &app;
  std::string path = "mnemo";
  while (!at->get_subcommands().empty()) {
    at = at->get_subcommands().front();
    path += " " + at->get_name();
  }
  return {at, path};
}

// What is wrong with the word in the place of a subcommand; empty if there is no such word.
std::string UnknownCommand(const CLI::App& app) {
  const auto [at, path] = Reached(app);
  const std::vector<const CLI::App*> known =
      at->get_subcommands([](const CLI::App*) { return true; });
  const std::vector<std::string> words = app.remaining(/*recurse=*/true);
  const auto word = std::find_if(words.begin(), words.end(),
                                 [](const std::string& w) { return !w.starts_with('-'); });
  if (known.empty() || word == words.end()) return "";
  const CLI::App* closest =
      *std::min_element(known.begin(), known.end(), [&](const CLI::App* a, const CLI::App* b) {
        return Distance(*word, a->get_name()) < Distance(*word, b->get_name());
      });
  const bool close = Distance(*word, closest->get_name()) <= 2;
  return fmt::format("there is no `{} {}`{}", path, *word,
                     close ? fmt::format("; is `{} {}` meant?", path, closest->get_name()) : "");
}

int ReportUsage(const CLI::App& app, const std::string& problem) {
  fmt::print(stderr, "mnemo: usage: {} (`{} --help` lists what there is)\n", problem,
             Reached(app).second);
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
    // Also before help is given: that would be of another command than was asked for.
    if (const std::string unknown = UnknownCommand(app); !unknown.empty()) {
      return ReportUsage(app, unknown);
    }
    return error.get_exit_code() == 0 ? app.exit(error) : ReportUsage(app, error.what());
  }
  SetLogLevel(LogLevels().at(level));
  const absl::StatusOr<int> code = RunAction(chosen);
  std::fflush(stdout);
  if (code.ok()) return *code;
  if (!code.status().message().empty()) {
    fmt::print(stderr, "mnemo: error: {}\n", std::string(code.status().message()));
  }
  return chosen.on_error();
}

}  // namespace mnemo
