// eval, export and generate on a small model with random weights.
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "src/core/config_text.h"
#include "src/data/utf8.h"
#include "src/model/config_check.h"
#include "src/model/saved_model.h"
#include "tests/cli/run_mnemo.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using testing::HasSubstr;

// Of every memory model here, for sequences of 32 tokens.
constexpr char kMemory[] = "memory { chunk: 16 }";

class ModelCommandsTest : public testing::Test {
 protected:
  void SetUp() override {
    Save("LMM", kMemory, "model");
    ASSERT_OK(FileSystem::Posix().MakeDirectories(directory_ / "shards"));
    WriteShard(directory_ / "shards/train-0.h5", RandomDocuments(3, 50, 256, 1), TestTokenizer());
    held_out_ = RandomDocuments(4, 50, 256, 2);
    WriteShard(directory_ / "shards/eval-0.h5", held_out_, TestTokenizer());
  }
  // `more` goes into the model's configuration, `data` into that of the data.
  void Save(const std::string& block, const std::string& more, const std::string& name,
            const std::string& data = "") {
    v1::RunConfig config;
    ASSERT_OK(ParseConfigText(
        fmt::format("model {{ block: {} layers: 1 width: 16 heads: 2 vocabulary: {} {} }}"
                    "train {{ steps: 1 sequence_length: 32 {}"
                    "         optimizer {{ learning_rate: 1e-3 }} }} execution {{ threads: 1 }}"
                    "data {{ {} }}",
                    block, tokenizer_->vocabulary(), more,
                    block == "TRANSFORMER" ? "" : "slice: 16", data),
        "test", &config));
    const auto effective = EffectiveConfig(config, "test");
    ASSERT_OK(effective.status());
    const auto parameters = ParameterSet::Initialize(MakeSpec(effective->model()), 1, DType::kF32);
    ASSERT_OK(
        SaveModel(FileSystem::Posix(), directory_ / name, *effective, parameters, *tokenizer_));
  }
  std::string path(const std::string& name) const { return directory_ / name; }

  TestDirectory directory_;
  std::unique_ptr<Tokenizer> tokenizer_ = MakeBytesTokenizer();  // of the models saved
  Documents held_out_;
};

TEST_F(ModelCommandsTest, EvalMeasuresTheHeldOutShards) {
  const std::vector<std::string> line = {"eval", "--model", path("model"), "--shards",
                                         path("shards")};
  const Result text = RunMnemo(line);
  EXPECT_EQ(text.err, "");
  EXPECT_EQ(text.code, kExitOk);
  EXPECT_THAT(text.out, HasSubstr("bits per byte"));
  EXPECT_THAT(text.out, HasSubstr("15..30 "));
  EXPECT_THAT(text.out, HasSubstr("31..31 "));  // sequences of 32

  std::vector<std::string> json_line = line;
  json_line.insert(json_line.end(), {"--json", "--slice", "5"});
  const auto json = nlohmann::json::parse(RunMnemo(json_line).out);
  int64_t tokens = -1, bytes = 0;  // the last token has no target
  for (const auto& document : held_out_) {
    bytes += static_cast<int64_t>(document.size());
    tokens += static_cast<int64_t>(document.size()) + 1;
  }
  EXPECT_EQ(json["tokens"], tokens);
  EXPECT_EQ(json["targets"], tokens);
  const double loss = json["loss"];
  EXPECT_NEAR(json["perplexity"], std::exp(loss), 1e-9 * std::exp(loss));
  // The first byte is no target, nor are the separators bytes.
  EXPECT_NEAR(json["bits_per_byte"],
              loss * static_cast<double>(tokens) / std::log(2.0) / static_cast<double>(bytes - 1),
              1e-9);
  EXPECT_THAT(text.out, HasSubstr(fmt::format("loss {:.4f}", loss)));
  int64_t in_buckets = 0;
  for (const auto& bucket : json["by_position"])
    in_buckets += static_cast<int64_t>(bucket["targets"]);
  EXPECT_EQ(in_buckets, tokens);
}

TEST_F(ModelCommandsTest, EvalWritesTheLossOfEveryToken) {
  const Result result = RunMnemo({"eval", "--model", path("model"), "--shards",
                                  path("shards/eval-0.h5"), "--max-tokens", "50", "--length", "20",
                                  "--per-token-loss", path("loss.h5"), "--json"});
  ASSERT_EQ(result.code, kExitOk) << result.err;
  auto file = Hdf5File::OpenReadOnly(path("loss.h5"));
  ASSERT_OK(file.status());
  const auto dataset = file->OpenDataset("loss", Hdf5Type::kFloat32, 1);
  ASSERT_OK(dataset.status());
  std::vector<float> losses(50);
  ASSERT_EQ(dataset->rows(), 50);
  ASSERT_OK(dataset->Read(0, 50, losses.data()));
  double sum = 0;
  for (const float loss : losses) sum += loss;
  EXPECT_NEAR(nlohmann::json::parse(result.out)["loss"], sum / 50, 1e-9);
}

TEST_F(ModelCommandsTest, EvalSaysWhatDoesNotFit) {
  EXPECT_THAT(RunMnemo({"eval", "--model", path("none"), "--shards", path("shards")}).err,
              HasSubstr("none is not a model directory"));
  EXPECT_THAT(RunMnemo({"eval", "--model", path("model")}).err, HasSubstr("--shards"));
  ShardTokenizer other = TestTokenizer();
  other.hash.bytes[0] ^= 1;
  WriteShard(path("other.h5"), held_out_, other);
  EXPECT_THAT(RunMnemo({"eval", "--model", path("model"), "--shards", path("other.h5")}).err,
              HasSubstr("prepare them again with the model's tokenizer"));
  EXPECT_THAT(RunMnemo({"eval", "--model", path("model"), "--shards", path("shards"), "--set",
                        "train.steps=3"})
                  .err,
              HasSubstr("only execution.* can be set"));
  EXPECT_EQ(RunMnemo({"eval", "--model", path("model"), "--slice", "-3"}).code, kExitUsage);
}

TEST_F(ModelCommandsTest, EvalSaysWhereLossesCannotBeWritten) {
  const Result result = RunMnemo({"eval", "--model", path("model"), "--shards", path("shards"),
                                  "--per-token-loss", path("none/loss.h5")});
  EXPECT_EQ(result.err, "mnemo: error: cannot create " + path("none/loss.h5.tmp") +
                            ": No such file or directory\n");
}

TEST_F(ModelCommandsTest, EvalRefusesASliceThatCutsAChunk) {
  Save("LMM", "memory { chunk: 8 }", "fresh", "document_reset: CHUNK");
  const auto eval = [&](const std::string& slice) {
    return RunMnemo({"eval", "--model", path("fresh"), "--shards", path("shards"), "--slice", slice,
                     "--per-token-loss", path("loss.h5")});
  };
  EXPECT_THAT(eval("12").err,
              HasSubstr("error: --slice 12: the model was trained with data.document_reset: CHUNK, "
                        "so slices are multiples of its chunk (MAC: segment) of 8 tokens; take "
                        "16\n"));
  EXPECT_FALSE(FileSystem::Posix().Exists(path("loss.h5")));
  for (const char* slice : {"8", "24", "32", "1001"}) {  // whole sequences of 32 are not cut
    EXPECT_EQ(eval(slice).code, kExitOk) << slice;
  }
}

TEST_F(ModelCommandsTest, EvalNamesADamagedShardAndLeavesNothing) {
  held_out_.push_back({'m', 'a', 'r', 'k'});
  WriteShard(path("bad.h5"), held_out_, TestTokenizer());
  std::string bytes = ReadText(path("bad.h5"));
  const size_t at = bytes.find(std::string("m\0a\0r\0k", 7));
  ASSERT_NE(at, std::string::npos);
  bytes[at] ^= 1;
  WriteText(path("bad.h5"), bytes);
  const std::string before = Snapshot(directory_.path());
  const Result result = RunMnemo({"eval", "--model", path("model"), "--shards", path("bad.h5"),
                                  "--per-token-loss", path("loss.h5")});
  EXPECT_EQ(result.code, kExitError);
  EXPECT_THAT(result.err, HasSubstr(path("bad.h5") + ": block 0 of tokens"));
  EXPECT_THAT(result.err, HasSubstr("the file is damaged; restore"));
  EXPECT_EQ(Snapshot(directory_.path()), before);
}

TEST_F(ModelCommandsTest, EvalSaysThatTextWasTrainedOn) {
  Save("LMM", kMemory, "trained", "shards: '" + path("shards") + "'");
  const auto eval = [&](const std::string& shards) {
    return RunMnemo({"eval", "--model", path("trained"), "--shards", path(shards)});
  };
  EXPECT_EQ(eval("shards").err, "");  // of a directory, eval-*
  const Result trained = eval("shards/train-0.h5");
  EXPECT_EQ(trained.code, kExitOk);
  EXPECT_THAT(trained.err, HasSubstr("the model was trained on " + path("shards/train-0.h5")));
}

TEST_F(ModelCommandsTest, ExportWritesTheModel) {
  const Result result = RunMnemo({"export", "--model", path("model"), "--out", path("out")});
  ASSERT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("parameters in " + path("out")));
  EXPECT_EQ(Snapshot(path("out")), Snapshot(path("model")));
  // Neither the model itself nor another one is lost by mistake.
  const std::string before = Snapshot(path("model"));
  for (const std::string& same : {path("model"), path("model/"), path("out/../model")}) {
    EXPECT_THAT(RunMnemo({"export", "--model", path("model"), "--out", same, "--overwrite"}).err,
                HasSubstr("--out is the model itself"));
  }
  EXPECT_EQ(Snapshot(path("model")), before);
  EXPECT_THAT(RunMnemo({"export", "--model", path("model"), "--out", path("out")}).err,
              HasSubstr(path("out") + " holds a model: choose another --out, or give --overwrite"));
  EXPECT_EQ(
      RunMnemo({"export", "--model", path("model"), "--out", path("out"), "--overwrite"}).code,
      kExitOk);
  WriteText(path("full/notes.txt"), "mine");
  EXPECT_THAT(RunMnemo({"export", "--model", path("model"), "--out", path("full")}).err,
              HasSubstr("notes.txt, which is not part of a model"));
}

TEST_F(ModelCommandsTest, ExportCutsALargeModelAndItIsReadAsAnyOther) {
  const auto run = [&](const std::vector<std::string>& words) {
    const Result result = RunMnemo(words);
    EXPECT_EQ(result.code, kExitOk) << result.err;
    return result.out;
  };
  const std::string cut =
      run({"export", "--model", path("model"), "--out", path("cut"), "--max-shard-size", "4KiB"});
  EXPECT_THAT(cut, testing::ContainsRegex("[0-9]+ parameters in [0-9]+ files and .*index.json\n"));
  EXPECT_TRUE(FileSystem::Posix().Exists(path("cut/model.safetensors.index.json")));
  EXPECT_FALSE(FileSystem::Posix().Exists(path("cut/model.safetensors")));
  const auto eval = [&](const std::string& model) {
    const auto json = nlohmann::json::parse(
        run({"eval", "--model", path(model), "--shards", path("shards"), "--json"}));
    return json["by_position"];
  };
  EXPECT_EQ(eval("cut"), eval("model"));
  const auto generate = [&](const std::string& model) {
    return run({"generate", "--model", path(model), "--prompt", "int", "--tokens", "20"});
  };
  EXPECT_EQ(generate("cut"), generate("model"));
  // From files to one, in the place of the many.
  run({"export", "--model", path("cut"), "--out", path("one")});
  EXPECT_EQ(Snapshot(path("one")), Snapshot(path("model")));
  EXPECT_THAT(RunMnemo({"export", "--model", path("model"), "--out", path("cut")}).err,
              HasSubstr("holds a model"));
  run({"export", "--model", path("model"), "--out", path("cut"), "--overwrite"});
  EXPECT_EQ(Snapshot(path("cut")), Snapshot(path("model")));
  for (const char* size : {"0", "-1", "5XB", "many", ""}) {
    EXPECT_EQ(
        RunMnemo({"export", "--model", path("model"), "--out", path("x"), "--max-shard-size", size})
            .code,
        kExitUsage)
        << size;
  }
}

TEST_F(ModelCommandsTest, ADamagedFileOfAnExportIsNamedAndNothingIsWritten) {
  ASSERT_EQ(RunMnemo({"export", "--model", path("model"), "--out", path("cut"), "--max-shard-size",
                      "4KB"})
                .code,
            kExitOk);
  std::string first;
  const std::vector<std::string> names = FileSystem::Posix().List(path("cut")).value();
  for (const std::string& name : names) {
    if (name.starts_with("model-00001-of-")) first = path("cut/" + name);
  }
  ASSERT_NE(first, "");
  std::string bytes = ReadText(first);
  bytes.back() ^= 1;
  WriteText(first, bytes);
  const auto failure = [&] {
    const Result result = RunMnemo({"export", "--model", path("cut"), "--out", path("again")});
    EXPECT_EQ(result.code, kExitError);
    EXPECT_FALSE(FileSystem::Posix().Exists(path("again")));
    EXPECT_FALSE(FileSystem::Posix().Exists(path("again.tmp")));
    return result.err;
  };
  EXPECT_THAT(failure(), testing::AllOf(HasSubstr(first + ": tensor "), HasSubstr("is damaged")));
  ASSERT_OK(FileSystem::Posix().Remove(first));
  EXPECT_THAT(failure(), HasSubstr("which is missing"));
}

TEST_F(ModelCommandsTest, GenerateStreamsValidTextAndRepeatsWithTheSeed) {
  const std::vector<std::string> line = {"generate", "--model",    path("model"), "--prompt",
                                         "int main", "--tokens",   "60",          "--temperature",
                                         "1.5",      "--past-end", "--seed"};
  const auto with_seed = [&](const std::string& seed) {
    std::vector<std::string> words = line;
    words.push_back(seed);
    return RunMnemo(words);
  };
  const Result one = with_seed("1");
  ASSERT_EQ(one.code, kExitOk) << one.err;
  EXPECT_EQ(FirstInvalidUtf8(one.out), one.out.size());
  EXPECT_GT(one.out.size(), 30u);
  EXPECT_THAT(one.err, HasSubstr("prompt: 8 tokens"));
  EXPECT_THAT(one.err, HasSubstr("generated: 60 tokens"));
  // 68 tokens run: a chunk, and four tokens that wait for the end of theirs.
  long long most = 0, tokens = 0, boundary = 0;
  const size_t at = one.err.find("state: ");
  ASSERT_NE(at, std::string::npos) << one.err;
  ASSERT_EQ(std::sscanf(one.err.c_str() + at,
                        "state: at most %lld bytes in this run; it swells within a chunk of %lld "
                        "tokens and falls back to %lld at its end",
                        &most, &tokens, &boundary),
            3)
      << one.err;
  EXPECT_GT(most, boundary);
  EXPECT_EQ(with_seed("1").out, one.out);
  EXPECT_NE(with_seed("2").out, one.out);
}

TEST_F(ModelCommandsTest, GenerateSaysThatFullAttentionGrows) {
  Save("TRANSFORMER", "", "full");
  WriteText(path("prompt.txt"), "a longer prompt");
  const Result result = RunMnemo({"generate", "--model", path("full"), "--prompt-file",
                                  path("prompt.txt"), "--tokens", "5", "--temperature", "0"});
  ASSERT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.err, HasSubstr("and grows"));
  EXPECT_EQ(
      RunMnemo({"generate", "--model", path("full"), "--prompt", "a", "--prompt-file", "b"}).code,
      kExitUsage);
}

TEST_F(ModelCommandsTest, GenerateSaysWhereAPromptIsNotUtf8) {
  WriteText(path("prompt.txt"), "caf\xE9");
  const auto generate = [&](const std::string& flag, const std::string& prompt) {
    return RunMnemo({"generate", "--model", path("model"), flag, prompt, "--tokens", "1"});
  };
  EXPECT_EQ(generate("--prompt-file", path("prompt.txt")).code, kExitOk);  // bytes take anything
  MNEMO_NEED_SENTENCEPIECE();
  SentencePieceOptions options;
  options.vocabulary = 300;
  options.type = "bpe";
  int lines = 0;
  std::string line;
  auto trained = TrainSentencePiece(options, [&]() -> std::optional<std::string_view> {
    if (++lines > 1000) return std::nullopt;
    return line = fmt::format("line {} of the text that this model is trained on", lines);
  });
  ASSERT_OK(trained);
  tokenizer_ = *MakeTokenizer(kSentencePieceTokenizer, *trained);
  Save("LMM", kMemory, "model");
  EXPECT_THAT(generate("--prompt-file", path("prompt.txt")).err,
              HasSubstr("prompt.txt: not UTF-8 at byte 3, and the model's tokenizer needs that: "
                        "convert the text"));
  EXPECT_THAT(generate("--prompt", "\xFF").err, HasSubstr("--prompt: not UTF-8 at byte 0"));
  EXPECT_EQ(generate("--prompt", "caf\xC3\xA9").code, kExitOk);
}

// Where the link leads, which may be another disk.
TEST_F(ModelCommandsTest, ExportReplacesWhatALinkLeadsTo) {
  Save("LMM", std::string("mlp_hidden: 64 ") + kMemory, "real");
  std::filesystem::create_directory_symlink(path("real"), path("link"));
  const std::string before = ReadText(path("real") + "/config.json");
  const Result result =
      RunMnemo({"export", "--model", path("model"), "--out", path("link"), "--overwrite"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_TRUE(std::filesystem::is_symlink(path("link")));
  EXPECT_NE(ReadText(path("real") + "/config.json"), before);
  EXPECT_FALSE(std::filesystem::exists(path("real.old")));
  EXPECT_FALSE(std::filesystem::exists(path("link.old")));
}

TEST_F(ModelCommandsTest, BenchAccuracyComparesEveryLayersMemory) {
  std::vector<std::string> line = {
      "bench",    "accuracy", "--model",  path("model"), "--shards", path("shards"),
      "--tokens", "100",      "--places", "2",           "--json",   path("a.json")};
  const Result result = RunMnemo(line);
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.out, HasSubstr("layer 0, 80 to 96 "));
  EXPECT_THAT(result.out, HasSubstr("layer 0, 0 to 96 "));
  EXPECT_THAT(result.out, HasSubstr("accuracy: ok"));
  const auto json = nlohmann::json::parse(ReadText(path("a.json")));
  ASSERT_EQ(json["scans"].size(), 3u);
  EXPECT_EQ(json["scans"][0]["kernel"], false);
  EXPECT_GT(json["scans"][0]["errors"]["y"], 0);
  EXPECT_EQ(json["scans"][2]["limited"], false);
  line[7] = "15";
  EXPECT_THAT(RunMnemo(line).err, HasSubstr("--tokens 15 is less than the memory's chunk of 16"));
  line[7] = "100000";
  EXPECT_THAT(RunMnemo(line).err, HasSubstr("--tokens asks for 100000: give more shards"));
  Save("TRANSFORMER", "", "plain");
  line[3] = path("plain"), line[7] = "100";
  EXPECT_THAT(RunMnemo(line).err, HasSubstr("a TRANSFORMER has no memory"));
}

}  // namespace
}  // namespace mnemo
