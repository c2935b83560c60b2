#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "src/cli/command.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int code = 0;
  std::string out, error;
};

Outcome RunMnemo(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"mnemo", "data"});
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  const AddCommand commands[] = {AddDataCommand};
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.code = RunCommandLine(static_cast<int>(argv.size()), argv.data(), commands);
  outcome.out = testing::internal::GetCapturedStdout();
  outcome.error = testing::internal::GetCapturedStderr();
  return outcome;
}

TEST(DataCommand, PreparesAndInspects) {
  const TestDirectory directory;
  for (char c = 'a'; c < 'z'; ++c) WriteText(directory / "in/" + c + ".h", std::string(100, c));
  WriteText(directory / "in/other.c", "left out");
  const Outcome prepared = RunMnemo({"prepare", directory / "in", "--include", "*.h", "--out",
                                     directory / "out", "--holdout", "0.3", "--json", "--quiet"});
  ASSERT_EQ(prepared.code, kExitOk) << prepared.error;
  const auto summary = nlohmann::json::parse(prepared.out);
  const int64_t train = summary["train"]["tokens"], eval = summary["eval"]["tokens"];
  EXPECT_EQ(train + eval, 25 * 101);
  EXPECT_EQ(summary["text_bytes"], 2500);
  const Outcome inspected = RunMnemo({"inspect", directory / "out", "--verify"});
  EXPECT_EQ(inspected.code, kExitOk) << inspected.error;
  EXPECT_THAT(inspected.out, HasSubstr("eval-00000.h5"));
  EXPECT_THAT(inspected.out, HasSubstr("tokenizer bytes, vocabulary 264, separator 256"));
  EXPECT_THAT(inspected.out, HasSubstr("verified: every digest matches"));
  const Outcome again = RunMnemo({"prepare", directory / "in", "--out", directory / "out"});
  EXPECT_EQ(again.code, kExitError);
  EXPECT_THAT(again.error, HasSubstr("(holdout was 0.3 and is 0.0)"));
}

TEST(DataCommand, CutsAtBlankLines) {
  const TestDirectory directory;
  WriteText(directory / "a.txt", "one\n\ntwo\n");
  const Outcome outcome =
      RunMnemo({"prepare", directory / "a.txt", "--delimiter", "", "--out", directory / "out"});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.error;
  EXPECT_THAT(outcome.out, HasSubstr("10 tokens in 2 documents, 1 shards"));
}

TEST(DataCommand, RepairsInvalidUtf8WhenAsked) {
  const TestDirectory directory;
  WriteText(directory / "a.jsonl", "{\"body\": \"a\xFF\"}\n");
  std::vector<std::string> line = {"prepare", directory / "a.jsonl", "--field", "body",
                                   "--out",   directory / "out"};
  Outcome outcome = RunMnemo(line);
  EXPECT_EQ(outcome.code, kExitError);
  EXPECT_THAT(outcome.error, HasSubstr("a.jsonl:1: not UTF-8 at byte 11 of the line"));
  line.insert(line.end(), {"--invalid-utf8", "skip", "--overwrite"});
  outcome = RunMnemo(line);
  EXPECT_EQ(outcome.code, kExitOk) << outcome.error;
  EXPECT_THAT(outcome.out, HasSubstr("2 tokens in 1 documents"));
  line[line.size() - 2] = "ignore";
  outcome = RunMnemo(line);
  EXPECT_EQ(outcome.code, kExitUsage);
}

TEST(DataCommand, InspectNamesWhatIsBad) {
  const TestDirectory directory;
  WriteText(directory / "bad.h5", "not a shard");
  const Outcome outcome = RunMnemo({"inspect", directory / "bad.h5"});
  EXPECT_EQ(outcome.code, kExitError);
  EXPECT_THAT(outcome.out, HasSubstr("BAD: "));
  EXPECT_THAT(outcome.error, HasSubstr("1 of 1 shards are bad"));
}

}  // namespace
}  // namespace mnemo
