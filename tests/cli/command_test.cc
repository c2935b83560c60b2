#include "src/cli/command.h"

#include <gmock/gmock.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "src/core/log.h"
#include "src/core/status.h"
#include "tests/cli/run_mnemo.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

void AddCountCommand(CLI::App& app, Action& chosen) {
  auto number = std::make_shared<int>(7);
  CLI::App* command = app.add_subcommand("count", "Counts.");
  command->add_option("--to", *number, "Last number (tokens)")->capture_default_str();
  command->callback([&chosen, number] {
    chosen = [number]() -> absl::Status {
      switch (*number) {
        case 0:
          return InvalidArgument("cannot count to {}", *number);
        case 1:
          throw TensorError(absl::InvalidArgumentError("bad shape"));
        case 2:
          throw std::bad_alloc();
        case 3:
          throw std::runtime_error("odd");
        default:
          break;
      }
      std::printf("counted to %d\n", *number);
      return absl::OkStatus();
    };
  });
}

Result RunCount(const std::vector<std::string>& words) {
  constexpr AddCommand kCommands[] = {AddCountCommand};
  return RunMnemo(words, kCommands);
}

TEST(CommandTest, RunsTheChosenCommandWithItsDefault) {
  const Result result = RunCount({"count"});
  EXPECT_EQ(result.code, kExitOk);
  EXPECT_EQ(result.out, "counted to 7\n");
  EXPECT_EQ(result.err, "");
}

TEST(CommandTest, FailuresAreOneLineOnStderrAndExitOne) {
  const Result result = RunCount({"count", "--to", "0"});
  EXPECT_EQ(result.code, kExitError);
  EXPECT_EQ(result.err, "mnemo: error: cannot count to 0\n");
  EXPECT_EQ(result.out, "");
  EXPECT_EQ(RunCount({"count", "--to", "1"}).err, "mnemo: error: bad shape\n");
  EXPECT_THAT(RunCount({"count", "--to", "2"}).err, HasSubstr("mnemo: error: out of memory"));
  EXPECT_EQ(RunCount({"count", "--to", "3"}).err, "mnemo: error: unexpected: odd\n");
  EXPECT_EQ(RunCount({"count", "--to", "3"}).code, kExitError);
}

// 0 to 5 are its answers; it fails at 6 and throws at 7.
void AddAnswerCommand(CLI::App& app, Action& chosen) {
  auto answer = std::make_shared<int>(0);
  CLI::App* command = app.add_subcommand("answer", "Answers.");
  command->add_option("--with", *answer);
  command->callback([&chosen, answer] {
    chosen = Action(
        [answer]() -> absl::StatusOr<int> {
          if (*answer == 6) return InvalidArgument("cannot say");
          if (*answer == 7) throw std::bad_alloc();
          return *answer;
        },
        kExitNoAnswer);
  });
}

TEST(CommandTest, ACommandMayAnswerByItsExitCode) {
  constexpr AddCommand kCommands[] = {AddAnswerCommand};
  const auto answer = [&](int with) {
    return RunMnemo({"answer", "--with", std::to_string(with)}, kCommands);
  };
  for (const int code : {0, 1, 5}) {
    EXPECT_EQ(answer(code).code, code);
    EXPECT_EQ(answer(code).err, "");
  }
  EXPECT_EQ(answer(6).code, kExitNoAnswer);
  EXPECT_EQ(answer(6).err, "mnemo: error: cannot say\n");
  EXPECT_EQ(answer(7).code, kExitNoAnswer);
  EXPECT_THAT(answer(7).err, HasSubstr("mnemo: error: out of memory"));
}

TEST(CommandTest, UsageErrorsAreOneLineAndExitTwo) {
  const std::vector<std::vector<std::string>> lines = {{},
                                                       {"cuont"},
                                                       {"count", "--too", "4"},
                                                       {"count", "--to", "x"},
                                                       {"--log-level", "loud", "count"}};
  for (const auto& words : lines) {
    const Result result = RunCount(words);
    EXPECT_EQ(result.code, kExitUsage);
    EXPECT_THAT(result.err, MatchesRegex("mnemo: usage: [^\n]* --help. lists what there is\\)\n"));
    EXPECT_EQ(result.out, "");
  }
  EXPECT_THAT(RunCount({"count", "--to", "x"}).err, HasSubstr("`mnemo count --help`"));
}

TEST(CommandTest, AnUnknownCommandIsNamed) {
  const auto refusal = [](const std::vector<std::string>& words) {
    const Result result = RunMnemo(words);
    EXPECT_EQ(result.code, kExitUsage);
    EXPECT_EQ(result.out, "");
    return result.err;
  };
  EXPECT_EQ(
      refusal({"trian", "a.textproto", "--run-dir", "x"}),
      "mnemo: usage: there is no `mnemo trian`; is `mnemo train` meant? (`mnemo --help` lists "
      "what there is)\n");
  EXPECT_EQ(refusal({"bench", "op", "--help"}),
            "mnemo: usage: there is no `mnemo bench op`; is `mnemo bench ops` meant? (`mnemo bench "
            "--help` lists what there is)\n");
  EXPECT_THAT(refusal({"telegraph"}), HasSubstr("there is no `mnemo telegraph` ("));
  EXPECT_THAT(refusal({"bench"}), HasSubstr("subcommand is required"));
  EXPECT_EQ(RunMnemo({"bench", "ops", "--help"}).code, kExitOk);
}

TEST(CommandTest, AResultThatCannotBeWrittenIsSaidFirst) {
  const Result result = RunMnemo({"bench", "ops", "--json", "/nope/x.json"});
  EXPECT_EQ(result.code, kExitError);
  EXPECT_THAT(result.err, HasSubstr("/nope/x.json"));
  EXPECT_EQ(result.out, "");
}

TEST(CommandTest, RecallOffersNoShards) {
  const std::string help = RunMnemo({"bench", "recall", "--help"}).out;
  EXPECT_EQ(help.find("shards"), std::string::npos) << help;
  EXPECT_THAT(help, HasSubstr("--shown-until INT=0"));
}

TEST(CommandTest, HelpShowsDefaultsAndVersionShowsTheCommit) {
  const Result help = RunCount({"count", "--help"});
  EXPECT_EQ(help.code, kExitOk);
  EXPECT_THAT(help.out, HasSubstr("Last number (tokens)"));
  EXPECT_THAT(help.out, HasSubstr("=7"));
  EXPECT_THAT(RunCount({"--help"}).out, HasSubstr("count"));
  const Result version = RunCount({"--version"});
  EXPECT_EQ(version.code, kExitOk);
  EXPECT_THAT(version.out, MatchesRegex("mnemo [0-9.]+, commit [0-9a-z-]+, .+, .+\n"));
}

// Declaring every command: a flag or name given twice throws.
TEST(CommandTest, TheWholeTableOfCommandsStands) {
  const char* const words[] = {"mnemo", "--help-all"};
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(RunCommandLine(2, words, AllCommands()), kExitOk);
  const std::string help = ::testing::internal::GetCapturedStdout();
  for (const char* name : {"train", "plan", "prepare", "inspect", "eval", "export", "generate",
                           "verify", "stability", "recall", "memory", "ops"}) {
    EXPECT_THAT(help, HasSubstr(name));
  }
}

TEST(CommandTest, LogLevelMayFollowTheCommand) {
  EXPECT_EQ(RunCount({"count", "--log-level", "error"}).code, kExitOk);
  EXPECT_FALSE(LogEnabled(LogLevel::kWarning));
  EXPECT_EQ(RunCount({"count"}).code, kExitOk);
  EXPECT_TRUE(LogEnabled(LogLevel::kInfo));
}

}  // namespace
}  // namespace mnemo
