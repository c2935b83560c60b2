#include "src/model/saved_model.h"

#include "src/ckpt/checkpoint_writer.h"
#include "src/core/config_text.h"
#include "src/model/config_check.h"
#include "tests/data/data_test_util.h"

namespace mnemo {
namespace {

using testing::HasSubstr;

FileSystem& Fs() { return FileSystem::Posix(); }

v1::RunConfig Config() {
  v1::RunConfig written;
  EXPECT_OK(ParseConfigText(R"(
      model { block: MAC layers: 1 width: 16 heads: 2 vocabulary: 264 memory { chunk: 4 }
              attention { segment: 8 persistent_tokens: 2 } }
      train { steps: 1 sequence_length: 16 optimizer { learning_rate: 1e-3 } })",
                            "test", &written));
  return EffectiveConfig(written, "test").value();
}

class SavedModelTest : public testing::Test {
 protected:
  void SetUp() override {
    config_ = Config();
    parameters_ = ParameterSet::Initialize(MakeSpec(config_.model()), 3, DType::kF32);
    tokenizer_ = MakeBytesTokenizer();
    ASSERT_OK(SaveModel(Fs(), path(), config_, parameters_, *tokenizer_));
  }
  std::string path() const { return directory_ / "model"; }
  // Writes config.json again with one text replaced by another.
  void Damage(const std::string& from, const std::string& to) {
    std::string text = ReadText(path() + "/config.json");
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << text;
    WriteText(path() + "/config.json", text.replace(at, from.size(), to));
  }

  TestDirectory directory_;
  v1::RunConfig config_;
  ParameterSet parameters_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(SavedModelTest, ComesBackWhole) {
  const auto model = LoadModel(Fs(), path());
  ASSERT_OK(model.status());
  EXPECT_EQ(PrintConfigText(model->config), PrintConfigText(config_));
  EXPECT_EQ(model->tokenizer->description(), tokenizer_->description());
  ASSERT_EQ(model->parameters.size(), parameters_.size());
  for (size_t i = 0; i < parameters_.size(); ++i) {
    EXPECT_EQ(model->parameters.info(i).name, parameters_.info(i).name);
    EXPECT_EQ(model->parameters[i].ToFloats(), parameters_[i].ToFloats());
  }
}

TEST_F(SavedModelTest, OnlyExecutionCanBeSet) {
  const std::vector<std::string> double_precision = {"execution.precision=F64"};
  const auto model = LoadModel(Fs(), path(), double_precision);
  ASSERT_OK(model.status());
  EXPECT_EQ(model->parameters[0].dtype(), DType::kF64);
  const std::vector<std::string> chunk = {"model.memory.chunk=8"};
  EXPECT_THAT(Failure(LoadModel(Fs(), path(), chunk)), HasSubstr("only execution.* can be set"));
}

TEST_F(SavedModelTest, ExportsTheSameModel) {
  const std::string out = directory_ / "out";
  const auto exported = ExportModel(Fs(), path(), out);
  ASSERT_OK(exported.status());
  EXPECT_EQ(exported->files, 1);
  EXPECT_EQ(exported->parameters, CountParameters(MakeSpec(config_.model())));
  EXPECT_EQ(Snapshot(out), Snapshot(path()));
}

// In pieces, as ranks write them, and beside other state.
class CheckpointModelTest : public SavedModelTest {
 protected:
  void SetUp() override {
    SavedModelTest::SetUp();
    about_.mutable_training()->set_step(7);
    *about_.mutable_config() = config_;
    const ShardTokenizer description = tokenizer_->description();
    about_.mutable_tokenizer()->set_kind(description.kind);
    about_.mutable_tokenizer()->set_hash(description.hash.Hex());
    about_.mutable_tokenizer()->set_vocabulary(description.vocabulary);
    about_.mutable_tokenizer()->set_separator(description.separator);
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const std::string name = "parameter/" + parameters_.info(i).name;
      const Shape& shape = parameters_[i].shape();
      if (shape.size() < 2 || shape[0] < 2) {
        pieces_.push_back(WholePiece(name, parameters_[i]));
        continue;
      }
      Shape second(shape.size(), 0);
      second[0] = 1;
      pieces_.push_back({name, shape, Shape(shape.size(), 0), parameters_[i].Slice(0, 0, 1)});
      pieces_.push_back({name, shape, second, parameters_[i].Slice(0, 1, shape[0])});
    }
    pieces_.push_back(WholePiece("first_moment/head", parameters_[0]));
  }
  std::string Save() {
    return SaveCheckpoint(Fs(), directory_ / "run/checkpoints", pieces_, about_).value();
  }

  v1::CheckpointManifest about_;
  std::vector<StatePiece> pieces_;
};

TEST_F(CheckpointModelTest, IsTheSameModel) {
  const std::string checkpoint = Save();
  for (const std::string& path : {checkpoint, directory_ / "run", directory_ / "run/checkpoints"}) {
    const auto model = LoadModel(Fs(), path);
    ASSERT_OK(model.status());
    EXPECT_EQ(PrintConfigText(model->config), PrintConfigText(config_));
    EXPECT_EQ(model->tokenizer->description(), tokenizer_->description());
    for (size_t i = 0; i < parameters_.size(); ++i) {
      EXPECT_EQ(model->parameters[i].ToFloats(), parameters_[i].ToFloats());
    }
  }
  ASSERT_OK(ExportModel(Fs(), checkpoint, directory_ / "out").status());
  EXPECT_EQ(Snapshot(directory_ / "out"), Snapshot(path()));
}

TEST_F(CheckpointModelTest, WhatDoesNotFitIsNamed) {
  const std::string lacking = parameters_.info(0).name;
  std::erase_if(pieces_,
                [&](const StatePiece& piece) { return piece.name == "parameter/" + lacking; });
  pieces_.push_back(WholePiece("parameter/stranger", parameters_[0]));
  const std::string checkpoint = Save();
  EXPECT_THAT(Failure(LoadModel(Fs(), checkpoint)),
              testing::AllOf(HasSubstr(checkpoint), HasSubstr("tensor " + lacking + " is missing"),
                             HasSubstr("tensor stranger [264, 16] is not part of the model")));
  Fs().Remove(checkpoint + "/manifest.pb").IgnoreError();
  EXPECT_THAT(Failure(LoadModel(Fs(), directory_ / "run")), HasSubstr("holds no whole checkpoint"));
  EXPECT_THAT(Failure(LoadModel(Fs(), directory_ / "nowhere")),
              HasSubstr("nowhere is not a model directory"));
}

TEST_F(SavedModelTest, AConfigurationThatDoesNotFitItsTensorsNamesThem) {
  Damage("\"persistent_tokens\": 2", "\"persistent_tokens\": 3");
  const std::string message = Failure(LoadModel(Fs(), path()));
  EXPECT_THAT(message, HasSubstr("layers.0.attention.persistent has shape [2, 16]"));
  EXPECT_THAT(message, HasSubstr("[3, 16]"));
}

TEST_F(SavedModelTest, AConfigurationOutOfRangeIsExplained) {
  Damage("\"segment\": 8", "\"segment\": 6");
  EXPECT_THAT(Failure(LoadModel(Fs(), path())), HasSubstr("segment"));
}

TEST_F(SavedModelTest, AnotherTokenizerIsNoticed) {
  const std::string hash = tokenizer_->description().hash.Hex();
  Damage(hash, std::string(32, '0'));
  EXPECT_THAT(Failure(LoadModel(Fs(), path())), HasSubstr("do not belong together"));
  Damage("\"kind\": \"bytes\"", "\"kind\": \"runes\"");
  EXPECT_THAT(Failure(LoadModel(Fs(), path())), HasSubstr("runes"));
}

TEST_F(SavedModelTest, ADamagedTensorIsNamed) {
  std::string bytes = ReadText(path() + "/model.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  WriteText(path() + "/model.safetensors", bytes);
  EXPECT_THAT(Failure(LoadModel(Fs(), path())), HasSubstr("\"head.weight\" is damaged"));
}

}  // namespace
}  // namespace mnemo
