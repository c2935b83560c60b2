#include <fmt/format.h>
#include <sys/mount.h>
#include <unistd.h>

#include <filesystem>

#include "src/data/prepare_manifest.h"
#include "src/data/shard_writer.h"
#include "tests/data/prepare_test_util.h"

namespace mnemo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PrepareErrors : public testing::Test {
 protected:
  // Options for one input file with this text.
  PrepareOptions Options(const std::string& name, std::string_view text) {
    WriteText(directory_ / name, text);
    PrepareOptions options;
    options.input.paths = {directory_ / name};
    options.out = directory_ / "out";
    options.overwrite = true;
    return options;
  }
  std::string FailureOf(const std::string& name, std::string_view text) {
    return Failure(RunPrepare(Options(name, text)));
  }
  TestDirectory directory_;
};

TEST_F(PrepareErrors, MalformedJsonNamesFileAndLine) {
  const std::string where = directory_ / "a.jsonl" + ":3: ";
  const std::string good = "{\"text\": \"fine\"}\n\n";
  EXPECT_THAT(FailureOf("a.jsonl", good + "{\"text\": \"cut"), HasSubstr(where + "not JSON: "));
  EXPECT_THAT(FailureOf("a.jsonl", good + "[1, 2]\n"),
              HasSubstr(where + "not a JSON object but array"));
  EXPECT_THAT(
      FailureOf("a.jsonl", good + "{\"body\": \"x\"}\n"),
      HasSubstr(where + "the object has no field \"text\": name the right one with --field"));
  EXPECT_THAT(FailureOf("a.jsonl", good + "{\"text\": 5}\n"),
              HasSubstr(where + "field \"text\" is not text but number"));
  EXPECT_THAT(FailureOf("a.jsonl", good + "{\"text\": \"\xFF\"}\n"),
              HasSubstr(where + "not UTF-8 at byte 10 of the line"));
}

// The first error of the input is the one reported, however many threads there are.
TEST_F(PrepareErrors, TheFirstErrorIsReported) {
  std::string text;
  for (int i = 0; i < 30000; ++i) text += i < 20000 ? "{\"text\": \"fine, for now\"}\n" : "bad\n";
  PrepareOptions options = Options("a.jsonl", text);
  options.threads = 8;
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("a.jsonl:20001: not JSON"));
  }
}

TEST_F(PrepareErrors, InvalidUtf8InJsonCanBeRepaired) {
  PrepareOptions options = Options("a.jsonl", "{\"text\": \"a\xFFz\"}\n");
  options.invalid_utf8 = InvalidUtf8::kReplace;
  ASSERT_OK(RunPrepare(options));
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining), ElementsAre("a\xEF\xBF\xBDz"));
  options.invalid_utf8 = InvalidUtf8::kSkip;
  ASSERT_OK(RunPrepare(options));
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining), ElementsAre("az"));
}

TEST_F(PrepareErrors, InvalidUtf8ForSentencePieceNamesFileAndByte) {
  MNEMO_NEED_SENTENCEPIECE();
  std::string text;
  for (int i = 0; i < 100000; ++i) text += fmt::format("line {} of the text\n", i % 1000);
  ASSERT_GT(text.size(), kUnitBytes + kPieceBytes);
  const size_t bad = text.size() - 30;
  text[bad] = '\xFF';
  PrepareOptions options = Options("a.txt", text);
  options.tokenizer = "sentencepiece";
  options.train.vocabulary = 300;
  options.train.type = "bpe";
  options.sample_bytes = 400000;
  EXPECT_THAT(Failure(RunPrepare(options)),
              HasSubstr(fmt::format("a.txt: not UTF-8 at byte {}: convert the text, or give "
                                    "--invalid-utf8 replace or skip",
                                    bad)));
  options.invalid_utf8 = InvalidUtf8::kSkip;
  ASSERT_OK(RunPrepare(options));
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining),
              ElementsAre(text.substr(0, bad) + text.substr(bad + 1)));
  options.invalid_utf8 = InvalidUtf8::kReplace;
  ASSERT_OK(RunPrepare(options));
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining),
              ElementsAre(text.substr(0, bad) + "\xEF\xBF\xBD" + text.substr(bad + 1)));
}

TEST_F(PrepareErrors, BytesTakeAnything) {
  const PrepareOptions options = Options("a.bin", std::string_view("\xFF\0\x80", 3));
  ASSERT_OK(RunPrepare(options));
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining),
              ElementsAre(std::string("\xFF\0\x80", 3)));
}

TEST_F(PrepareErrors, EmptyAndMissingInput) {
  EXPECT_THAT(FailureOf("a.txt", ""), HasSubstr("the input is empty: it has no text"));
  EXPECT_THAT(FailureOf("a.jsonl", "{\"text\": \"\"}\n"), HasSubstr("the input is empty"));
  PrepareOptions options = Options("a.txt", "text");
  options.input.paths = {directory_ / "none.txt"};
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("none.txt does not exist"));
  options.input.paths = {};
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("no input: name files"));
  options.input.paths = {"-", "-"};
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("standard input (-) is given twice"));
  options.input.paths = {directory_.path()};
  options.input.include = {"*.cc"};
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("matches: check --include and --exclude"));
}

TEST_F(PrepareErrors, SaysWhatWasLeftOutIfNothingIsLeft) {
  PrepareOptions options = Options("in/.git/a.txt", "text");
  WriteText(directory_ / "in/a.o", std::string_view("a\0", 2));
  options.input.paths = {directory_ / "in"};
  EXPECT_THAT(Failure(RunPrepare(options)),
              HasSubstr("1 hidden skipped: --hidden; 1 binary skipped: --binary"));
}

// Nothing was made that would have to be kept.
TEST_F(PrepareErrors, AFailedFirstRunDoesNotBindTheNext) {
  PrepareOptions options = Options("a.jsonl", "{\"body\": \"fine\"}\n");
  options.overwrite = false;
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("name the right one with --field"));
  EXPECT_TRUE(FileSystem::Posix().Exists(options.out + "/prepare.json"));
  options.input.field = "body";
  ASSERT_OK(RunPrepare(options));
  EXPECT_THAT(PreparedText(options.out, ShardRole::kTraining), ElementsAre("fine"));
  options.input.field = "text";
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("holds data prepared in another way"));
}

TEST_F(PrepareErrors, OptionsOutOfRange) {
  PrepareOptions options = Options("a.txt", "text");
  options.holdout = 1;
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("at least 0 and below 1"));
  options.holdout = 0.5;  // one document cannot be on both sides
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("of the documents: give more documents"));
  options.holdout = 0;
  options.tokenizer = "words";
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("there is no tokenizer 'words'"));
  options.tokenizer = "bytes";
  options.tokenizer_model = "x";
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("takes no model file"));
  options.tokenizer = "sentencepiece";
  options.tokenizer_model = directory_ / "none.model";
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("none.model"));
  options.tokenizer_model = "";
  options.input.paths = {"-"};
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("standard input can be read once"));
}

TEST_F(PrepareErrors, OtherDataInTheDirectoryIsKept) {
  PrepareOptions options = Options("a.txt", "text");
  options.overwrite = false;
  WriteText(options.out + "/train-00000.h5", "precious");
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("holds train-00000.h5 but no prepare.json"));
  WriteText(options.out + "/prepare.json", "{");
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("cannot understand"));
  EXPECT_EQ(ReadText(options.out + "/train-00000.h5"), "precious");
}

TEST_F(PrepareErrors, AnUnwritableDirectoryIsNamed) {
  PrepareOptions options = Options("a.txt", "text");
  options.out = directory_ / "a.txt" + "/out";
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr(directory_ / "a.txt"));
  options.out = "/proc/mnemo";
  EXPECT_THAT(Failure(RunPrepare(options)), HasSubstr("/proc/mnemo"));
}

// What is finished stays, and the run goes on once there is room.
TEST_F(PrepareErrors, AFullDiskIsOneErrorAndFinishedShardsStay) {
  const std::string disk = directory_ / "disk";
  std::filesystem::create_directory(disk);
  if (::mount("none", disk.c_str(), "tmpfs", 0, "size=3m") != 0) {
    GTEST_SKIP() << "mounting a small disk needs root";
  }
  for (int i = 0; i < 10; ++i) {
    WriteText(directory_ / fmt::format("in/{}.txt", i), std::string(300000, 'a'));
  }
  PrepareOptions options;
  options.input.paths = {directory_ / "in"};
  options.shard_bytes = 500000;
  options.out = disk + "/out";
  const absl::Status status = RunPrepare(options).status();
  const auto names = FileSystem::Posix().List(options.out);
  const auto manifest = PrepareManifest::Load(FileSystem::Posix(), options.out);
  bool grown = ::mount("none", disk.c_str(), "tmpfs", MS_REMOUNT, "size=30m") == 0;
  const absl::StatusOr<PrepareSummary> again = RunPrepare(options);
  const size_t documents = PreparedText(options.out, ShardRole::kTraining).size();
  ::umount(disk.c_str());
  EXPECT_TRUE(grown);
  EXPECT_THAT(Failure(status), HasSubstr("No space left on device"));
  ASSERT_OK(manifest);
  const size_t finished = (*manifest)->splits[0].shards.size();
  EXPECT_GE(finished, 2u);
  EXPECT_EQ(names->size(), finished + 1) << "nothing but shards and the manifest";
  ASSERT_OK(again);
  EXPECT_EQ(again->resumed_shards, static_cast<int64_t>(finished));
  EXPECT_EQ(documents, 10u);
}

// The disk fills while the library writes the final file: its own buffers must not outlive the
// failure.
TEST_F(PrepareErrors, HDF5RunningIntoALimitIsOneError) {
  auto writer = ShardWriter::Create(FileSystem::Posix(), directory_ / "a.h5", TestTokenizer(), "");
  ASSERT_OK(writer);
  ASSERT_OK((*writer)->Append(std::vector<int32_t>(1 << 20, 7)));
  ASSERT_OK((*writer)->EndDocument());
  absl::StatusOr<ShardHeader> header;
  {
    // Room for the staged tokens, but not for the header of the shard as well.
    const FileSizeLimit limit(2 * ((1 << 20) + 1) + 256);
    header = (*writer)->Finish();
  }
  EXPECT_THAT(Failure(header), HasSubstr("a.h5.tmp"));
  EXPECT_THAT(Failure(header), HasSubstr("File too large"));
  writer->reset();
  EXPECT_THAT(*FileSystem::Posix().List(directory_.path()), ElementsAre());
  // The library is still in order.
  WriteShard(directory_ / "b.h5", {{1, 2}}, TestTokenizer());
  EXPECT_EQ(OpenSet({directory_ / "b.h5"})->tokens(), 3);
}

TEST_F(PrepareErrors, AFailedRenameLeavesTheOldShard) {
  WriteShard(directory_ / "a.h5", {{1, 2}}, TestTokenizer());
  const std::string before = ReadText(directory_ / "a.h5");
  FailingFileSystem fs;
  fs.renames_fail = true;
  auto writer = ShardWriter::Create(fs, directory_ / "a.h5", TestTokenizer(), "");
  ASSERT_OK(writer);
  ASSERT_OK((*writer)->Append(std::vector<int32_t>{5}));
  ASSERT_OK((*writer)->EndDocument());
  EXPECT_THAT(Failure((*writer)->Finish()), HasSubstr("cannot rename"));
  writer->reset();
  EXPECT_EQ(ReadText(directory_ / "a.h5"), before);
  EXPECT_THAT(*FileSystem::Posix().List(directory_.path()), ElementsAre("a.h5"));
}

}  // namespace
}  // namespace mnemo
