#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/cli/run_mnemo.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

Result RunData(std::vector<std::string> words) {
  words.insert(words.begin(), "data");
  return RunMnemo(words);
}

TEST(DataCommand, PreparesAndInspects) {
  const TestDirectory directory;
  for (char c = 'a'; c < 'z'; ++c) WriteText(directory / "in/" + c + ".h", std::string(100, c));
  WriteText(directory / "in/other.c", "left out");
  const Result prepared = RunData({"prepare", directory / "in", "--include", "*.h", "--out",
                                   directory / "out", "--holdout", "0.3", "--json", "--quiet"});
  ASSERT_EQ(prepared.code, kExitOk) << prepared.err;
  const auto summary = nlohmann::json::parse(prepared.out);
  const int64_t train = summary["train"]["tokens"], eval = summary["eval"]["tokens"];
  EXPECT_EQ(train + eval, 25 * 101);
  EXPECT_EQ(summary["text_bytes"], 2500);
  const Result inspected = RunData({"inspect", directory / "out", "--verify"});
  EXPECT_EQ(inspected.code, kExitOk) << inspected.err;
  EXPECT_THAT(inspected.out, HasSubstr("eval-00000.h5"));
  EXPECT_THAT(inspected.out, HasSubstr("tokenizer bytes, vocabulary 264, separator 256"));
  EXPECT_THAT(inspected.out, HasSubstr("verified: every digest matches"));
  const Result again = RunData({"prepare", directory / "in", "--out", directory / "out"});
  EXPECT_EQ(again.code, kExitError);
  EXPECT_THAT(again.err, HasSubstr("(holdout was 0.3 and is 0.0)"));
}

TEST(DataCommand, LeavesOutWhatIsHiddenOrNoText) {
  const TestDirectory directory;
  WriteText(directory / "in/a.txt", "text");
  WriteText(directory / "in/.git/config", "hidden");
  WriteText(directory / "in/.hidden", "hidden");
  const std::string_view binary(
      "\x7F"
      "ELF\0\1",
      6);
  WriteText(directory / "in/a.out", binary);
  const auto prepare = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"prepare", "--out", directory / "out", "--overwrite"});
    return RunData(more);
  };
  Result outcome = prepare({directory / "in"});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("5 tokens in 1 documents"));
  EXPECT_THAT(outcome.out, HasSubstr("left out: 2 hidden files and directories (--hidden"));
  EXPECT_THAT(outcome.out, HasSubstr("left out: 1 files that are no text (--binary"));
  outcome = prepare({directory / "in", "--hidden", "--binary"});
  EXPECT_THAT(outcome.out, HasSubstr("in 4 documents"));
  EXPECT_THAT(outcome.out, Not(HasSubstr("left out")));
  // What is named is meant.
  outcome = prepare({directory / "in/a.out", directory / "in/.hidden"});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("14 tokens in 2 documents"));
  EXPECT_THAT(outcome.err, HasSubstr("in/a.out has NUL bytes: is it text?"));
}

TEST(DataCommand, ShowsTheChoicesOfItsFlags) {
  EXPECT_THAT(RunData({"prepare", "--help"}).out, HasSubstr("{error,replace,skip}=error"));
}

TEST(DataCommand, CutsAtBlankLines) {
  const TestDirectory directory;
  WriteText(directory / "a.txt", "one\n\ntwo\n");
  const Result outcome =
      RunData({"prepare", directory / "a.txt", "--delimiter", "", "--out", directory / "out"});
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("10 tokens in 2 documents, 1 shards"));
}

TEST(DataCommand, RepairsInvalidUtf8WhenAsked) {
  const TestDirectory directory;
  WriteText(directory / "a.jsonl", "{\"body\": \"a\xFF\"}\n");
  std::vector<std::string> line = {"prepare", directory / "a.jsonl", "--field", "body",
                                   "--out",   directory / "out"};
  Result outcome = RunData(line);
  EXPECT_EQ(outcome.code, kExitError);
  EXPECT_THAT(outcome.err, HasSubstr("a.jsonl:1: not UTF-8 at byte 11 of the line"));
  line.insert(line.end(), {"--invalid-utf8", "skip", "--overwrite"});
  outcome = RunData(line);
  EXPECT_EQ(outcome.code, kExitOk) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("2 tokens in 1 documents"));
  line[line.size() - 2] = "ignore";
  outcome = RunData(line);
  EXPECT_EQ(outcome.code, kExitUsage);
}

TEST(DataCommand, InspectNamesWhatIsBad) {
  const TestDirectory directory;
  WriteText(directory / "bad.h5", "not a shard");
  const Result outcome = RunData({"inspect", directory / "bad.h5"});
  EXPECT_EQ(outcome.code, kExitError);
  EXPECT_THAT(outcome.out, HasSubstr("BAD: "));
  EXPECT_THAT(outcome.err, HasSubstr("1 of 1 shards are bad"));
}

}  // namespace
}  // namespace mnemo
