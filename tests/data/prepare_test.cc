#include "src/data/prepare.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <thread>

#include "src/core/random.h"
#include "tests/data/prepare_test_util.h"

namespace mnemo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Printable lines, `bytes` of them, different for each seed.
std::string SomeText(size_t bytes, uint64_t seed) {
  const RandomStream random(seed, 0, "test/text");
  std::string text;
  for (uint64_t i = 0; text.size() < bytes; ++i) {
    const uint64_t bits = random.Bits(i);
    text += fmt::format("int value_{} = {};{}", bits % 97, bits % 1009, bits % 3 == 0 ? "\n" : " ");
  }
  text.resize(bytes);
  return text;
}

TEST(Prepare, TakesDirectoriesFilesAndGlobsInOrder) {
  const TestDirectory directory;
  WriteText(directory / "in/b/two.h", "two\n");
  WriteText(directory / "in/a/one.h", "one\n");
  WriteText(directory / "in/a/one.c", "c\n");
  WriteText(directory / "in/b/skip/three.h", "three");
  WriteText(directory / "in/empty.h", "");
  WriteText(directory / "last.txt", "last");
  std::filesystem::create_symlink(directory / "last.txt", directory / "in/link.h");
  PrepareOptions options;
  options.input.paths = {directory / "in", directory / "last.txt"};
  options.input.include = {"*.h"};
  options.input.exclude = {"b/skip/*"};
  options.out = directory / "out";
  const auto summary = RunPrepare(options);
  ASSERT_OK(summary);
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining),
              ElementsAre("one\n", "two\n", "last"));
  EXPECT_EQ(summary->documents[0], 3);
  EXPECT_EQ(summary->tokens[0], 4 + 4 + 4 + 3);
  EXPECT_EQ(summary->bytes, 12);
}

TEST(Prepare, DoesNotReadItsOwnOutput) {
  const TestDirectory directory;
  WriteText(directory / "text.txt", "text");
  PrepareOptions options;
  options.input.paths = {directory.path()};
  options.out = directory / "out";
  ASSERT_OK(RunPrepare(options));
  options.overwrite = true;
  ASSERT_OK(RunPrepare(options));
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining), ElementsAre("text"));
}

TEST(Prepare, CutsDocumentsAtDelimiterLines) {
  const TestDirectory directory;
  WriteText(directory / "a.txt", "%%\none\ntwo\n%%\n%%\nthree %%\n%%x\n%%");
  WriteText(directory / "b.txt", "four");
  PrepareOptions options;
  options.input.paths = {directory / "a.txt", directory / "b.txt"};
  options.input.delimiter = "%%";
  options.out = directory / "out";
  ASSERT_OK(RunPrepare(options));
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining),
              ElementsAre("one\ntwo\n", "three %%\n%%x\n", "four"));
  options.input.delimiter = "";
  options.out = directory / "blank";
  WriteText(directory / "a.txt", "one\n\n\ntwo\nand\n\n");
  ASSERT_OK(RunPrepare(options));
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining),
              ElementsAre("one\n", "two\nand\n", "four"));
}

TEST(Prepare, ReadsJsonLines) {
  const TestDirectory directory;
  WriteText(directory / "a.jsonl",
            "{\"text\": \"one\\n\\u00e4\", \"n\": 1}\n\n{\"text\": \"\"}\r\n{\"text\": \"two\"}");
  PrepareOptions options;
  options.input.paths = {directory / "a.jsonl"};
  options.out = directory / "out";
  ASSERT_OK(RunPrepare(options));
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining), ElementsAre("one\n\xC3\xA4", "two"));
}

TEST(Prepare, ReadsStandardInput) {
  const TestDirectory directory;
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const std::string text = SomeText(3 << 20, 1);
  std::thread writer([&] {
    size_t at = 0;
    while (at < text.size()) {
      const ssize_t wrote =
          ::write(ends[1], text.data() + at, std::min<size_t>(7777, text.size() - at));
      ASSERT_GT(wrote, 0);
      at += static_cast<size_t>(wrote);
    }
    ::close(ends[1]);
  });
  PrepareOptions options;
  options.input.paths = {"-"};
  options.input.standard_input = ends[0];
  options.out = directory / "out";
  const auto summary = RunPrepare(options);
  writer.join();
  ::close(ends[0]);
  ASSERT_OK(summary);
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining), ElementsAre(text));
}

// The same text gives the same tokens from a file, between delimiters, and as JSON; and threads
// change nothing. Long enough to come in several units, with and without newlines to cut at.
TEST(Prepare, OutputDependsNeitherOnThreadsNorOnTheKindOfInput) {
  const TestDirectory directory;
  const std::string lines = SomeText((5 << 20) / 2, 1), solid(2100000, 'x'), little = "little\n";
  WriteText(directory / "in/1.txt", lines);
  WriteText(directory / "in/2.txt", solid);
  WriteText(directory / "in/3.txt", little);
  WriteText(directory / "all.txt", lines + "\n%\n" + solid + "\n%\n" + little);
  std::string json;
  for (const std::string& text : {lines + "\n", solid + "\n", little}) {
    std::string escaped;
    for (char c : text) escaped += c == '\n' ? "\\n" : std::string(1, c);
    json += "{\"text\":\"" + escaped + "\"}\n";
  }
  WriteText(directory / "all.jsonl", json);
  const auto run = [&](const std::string& input, int threads) {
    PrepareOptions options;
    options.input.paths = {directory / input};
    options.input.delimiter = input == "all.txt" ? std::optional<std::string>("%") : std::nullopt;
    options.shard_bytes = 3 << 20;
    options.threads = threads;
    options.out = directory / fmt::format("{}_{}", input, threads);
    EXPECT_OK(RunPrepare(options));
    return options.out;
  };
  const std::string reference = run("in", 1);
  EXPECT_EQ(Snapshot(run("in", 5)), Snapshot(reference));
  EXPECT_EQ(FileSystem::Posix().List(reference)->size(), 4u);  // three shards and the manifest
  const std::string text = run("all.txt", 3), objects = run("all.jsonl", 2);
  for (const char* shard : {"/train-00000.h5", "/train-00001.h5", "/train-00002.h5"}) {
    EXPECT_EQ(ReadText(text + shard), ReadText(objects + shard));
  }
  EXPECT_THAT(PreparedText(text, ShardRole::kTraining),
              ElementsAre(lines + "\n", solid + "\n", little));
  EXPECT_THAT(PreparedText(reference, ShardRole::kTraining), ElementsAre(lines, solid, little));
}

TEST(Prepare, HoldsOutAboutTheFractionAskedFor) {
  const TestDirectory directory;
  std::string json;
  for (int i = 0; i < 3000; ++i) json += fmt::format("{{\"text\": \"document {}\"}}\n", i % 2000);
  WriteText(directory / "a.jsonl", json);
  PrepareOptions options;
  options.input.paths = {directory / "a.jsonl"};
  options.holdout = 0.1;
  options.out = directory / "out";
  const auto summary = RunPrepare(options);
  ASSERT_OK(summary);
  EXPECT_EQ(summary->documents[0] + summary->documents[1], 3000);
  EXPECT_NEAR(static_cast<double>(summary->documents[1]), 300, 5 * std::sqrt(3000 * 0.1 * 0.9 * 2));
  const auto train = PreparedText(options.out, ShardRole::kTraining);
  const auto eval = PreparedText(options.out, ShardRole::kEvaluation);
  const std::set<std::string> seen(train.begin(), train.end());
  for (const std::string& text : eval) EXPECT_EQ(seen.count(text), 0u) << text;
  // Another seed, another choice.
  options.seed = 1;
  options.out = directory / "other";
  ASSERT_OK(RunPrepare(options));
  EXPECT_NE(PreparedText(options.out, ShardRole::kEvaluation), eval);
}

TEST(Prepare, ReportsProgress) {
  const TestDirectory directory;
  WriteText(directory / "a.txt", SomeText(100000, 1));
  PrepareOptions options;
  options.input.paths = {directory / "a.txt"};
  options.out = directory / "out";
  PrepareProgress last;
  ASSERT_OK(Prepare(FileSystem::Posix(), options, [&](const PrepareProgress& p) { last = p; }));
  EXPECT_EQ(std::string(last.phase), "tokenising");
  EXPECT_EQ(last.bytes_read, 100000);
  EXPECT_EQ(last.bytes_total, 100000);
  EXPECT_EQ(last.tokens, 100001);
  EXPECT_EQ(last.documents, 1);
  EXPECT_EQ(last.shards, 1);
}

TEST(Prepare, TrainsASentencePieceTokenizer) {
  MNEMO_NEED_SENTENCEPIECE();
  const TestDirectory directory;
  const std::string text = SomeText(200000, 1);
  WriteText(directory / "a.txt", text);
  PrepareOptions options;
  options.input.paths = {directory / "a.txt"};
  options.tokenizer = "sentencepiece";
  options.train.vocabulary = 400;
  options.sample_bytes = 100000;
  options.out = directory / "out";
  const auto summary = RunPrepare(options);
  ASSERT_OK(summary);
  EXPECT_LT(summary->tokens[0], 190000);  // some pieces are longer than a byte
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining), ElementsAre(text));
  options.threads = 3;
  options.out = directory / "again";
  ASSERT_OK(RunPrepare(options));
  EXPECT_EQ(Snapshot(options.out), Snapshot(directory / "out"));
  // The trained model can be given.
  options.tokenizer_model = directory / "out/tokenizer.model";
  options.out = directory / "given";
  ASSERT_OK(RunPrepare(options));
  EXPECT_EQ(ReadText(directory / "given/train-00000.h5"),
            ReadText(directory / "out/train-00000.h5"));
}

}  // namespace
}  // namespace mnemo
