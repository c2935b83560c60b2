// Weights to begin with: what ranks have of them, on every mesh and in every form in which they are
// stored, and which are refused.
#include "src/job/initial_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "src/ckpt/checkpoint_writer.h"
#include "src/core/config_text.h"
#include "src/core/status.h"
#include "src/model/saved_model.h"
#include "src/model/tensor_split.h"
#include "src/parallel/thread_transport.h"
#include "tests/ckpt/faulty_file_system.h"
#include "tests/data/data_test_util.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int kVocabulary = 264;  // the bytes tokenizer's

v1::RunConfig Config() {
  v1::RunConfig config = TinyRun(v1::MAG);
  config.mutable_train()->set_micro_batches(2);
  config.mutable_train()->set_accumulation(2);
  return Effective(config, kVocabulary);
}

struct Outcome {
  std::vector<double> parameters;  // of the whole model, before the first step
  std::vector<double> losses;
};

class InitialWeightsTest : public testing::Test {
 protected:
  InitialWeightsTest() {
    EXPECT_OK(SaveModel(fs_, one_, Config(), weights_, *MakeBytesTokenizer()));
    EXPECT_OK(ExportModel(fs_, one_, cut_, 3000));
    std::vector<StatePiece> pieces;
    for (size_t i = 0; i < weights_.size(); ++i) {
      pieces.push_back(WholePiece("parameter/" + weights_.info(i).name, weights_[i]));
      pieces.push_back(WholePiece("first_moment/" + weights_.info(i).name, weights_[i]));
    }
    v1::CheckpointManifest about;
    *about.mutable_config() = Config();
    about.mutable_training()->set_step(7);
    about.mutable_training()->set_updates(7);
    const ShardTokenizer tokenizer = TestTokenizer();
    about.mutable_tokenizer()->set_kind(tokenizer.kind);
    about.mutable_tokenizer()->set_hash(tokenizer.hash.Hex());
    EXPECT_OK(SaveCheckpoint(fs_, directory_ / "other/checkpoints", pieces, about));
  }

  // Two steps on every rank of the mesh, after `begin`.
  absl::StatusOr<Outcome> Train(const v1::RunConfig& config, const Mesh& mesh,
                                const std::function<absl::Status(Trainer&)>& begin) const {
    std::vector<Outcome> outcomes(mesh.size());
    MNEMO_RETURN_IF_ERROR(RunOnThreads(mesh.size(), {}, [&](Transport& transport) -> absl::Status {
      Outcome& outcome = outcomes[transport.rank()];
      MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, mesh));
      MNEMO_ASSIGN_OR_RETURN(const StepShare share, ShareOfRank(*ranks, config.train()));
      RandomSource source(config, share);
      MNEMO_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(config, source, *ranks));
      MNEMO_RETURN_IF_ERROR(begin(*trainer));
      const ParameterSet whole = GatherParameters(trainer->spec(), trainer->parameters());
      if (whole.size() > 0) outcome.parameters = whole.flat().ToDoubles();
      EXPECT_EQ(trainer->step(), 0);
      EXPECT_EQ(trainer->optimizer().counters().updates, 0);
      for (const StateTensor& state : trainer->optimizer().State()) {
        for (const double value : state.tensor.ToDoubles()) EXPECT_EQ(value, 0);
      }
      while (trainer->step() < 2) {
        v1::StepMetrics metrics;
        MNEMO_RETURN_IF_ERROR(trainer->Step(metrics));
        outcome.losses.push_back(metrics.loss());
      }
      return absl::OkStatus();
    }));
    return outcomes[0];
  }
  absl::StatusOr<Outcome> TrainFrom(const v1::RunConfig& config, const Mesh& mesh,
                                    const std::string& from) {
    return Train(config, mesh,
                 [&](Trainer& trainer) { return ReadInitialWeights(fs_, from, trainer); });
  }
  // With the weights set one by one, by each rank for itself.
  absl::StatusOr<Outcome> TrainByHand(const v1::RunConfig& config, const Mesh& mesh) {
    return Train(config, mesh, [&](Trainer& trainer) {
      ParameterSet& parameters = trainer.parameters();
      for (size_t i = 0; i < parameters.size(); ++i) {
        parameters.Set(i, PartOf(weights_[i], parameters.info(i)).To(parameters.flat().dtype()));
      }
      return absl::OkStatus();
    });
  }

  FileSystem& fs_ = FileSystem::Posix();
  TestDirectory directory_;
  // Not those of the run's own seed.
  const ParameterSet weights_ =
      ParameterSet::Initialize(MakeSpec(Config().model()), 99, DType::kF32);
  const std::string one_ = directory_ / "one", cut_ = directory_ / "cut",
                    checkpoint_ = directory_ / "other/checkpoints/step-000000000007";
};

TEST_F(InitialWeightsTest, EveryMeshBeginsWithThem) {
  ASSERT_TRUE(fs_.Exists(cut_ + "/model.safetensors.index.json"));
  std::vector<double> alone;
  for (const Mesh& mesh :
       {Mesh{1, 1, 1}, Mesh{2, 1, 1}, Mesh{1, 3, 1}, Mesh{1, 1, 2}, Mesh{2, 1, 2}}) {
    SCOPED_TRACE(ToString(mesh));
    for (const int zero : {0, 1}) {
      v1::RunConfig config = Config();
      config.mutable_parallel()->set_zero(zero);
      const auto by_hand = TrainByHand(config, mesh);
      ASSERT_OK(by_hand);
      for (const std::string& from : {one_, cut_, checkpoint_}) {
        const auto outcome = TrainFrom(config, mesh, from);
        ASSERT_OK(outcome);
        EXPECT_EQ(outcome->parameters, weights_.flat().ToDoubles()) << from;
        EXPECT_EQ(outcome->losses, by_hand->losses) << from;
      }
      if (alone.empty()) alone = by_hand->losses;
      for (size_t i = 0; i < alone.size(); ++i) EXPECT_NEAR(by_hand->losses[i], alone[i], 2e-5);
    }
  }
  const auto random = Train(Config(), {}, [](Trainer&) { return absl::OkStatus(); });
  ASSERT_OK(random);
  EXPECT_NE(random->losses[0], alone[0]);
}

// In what the run computes in, also where that is something else.
TEST_F(InitialWeightsTest, ARunMayHaveAnotherPrecision) {
  v1::RunConfig config = Config();
  for (const v1::Precision precision : {v1::BF16, v1::F64}) {
    config.mutable_execution()->set_precision(precision);
    for (const Mesh& mesh : {Mesh{1, 1, 1}, Mesh{1, 1, 2}}) {
      const auto by_hand = TrainByHand(config, mesh);
      const auto outcome = TrainFrom(config, mesh, cut_);
      ASSERT_OK(outcome);
      EXPECT_EQ(outcome->parameters, weights_.flat().ToDoubles());
      EXPECT_EQ(outcome->losses, by_hand->losses);
    }
  }
}

// Of what several ranks hold, each reads a share.
TEST_F(InitialWeightsTest, ARankReadsItsShare) {
  constexpr int kRanks = 4;
  const auto fewest = [&](const std::string& from, const Mesh& mesh) {
    std::vector<int64_t> bytes(mesh.size());
    EXPECT_OK(Train(Config(), mesh, [&](Trainer& trainer) {
      FaultyFileSystem counting(FaultyFileSystem::Fault::kNone, 0);
      const absl::Status status = ReadInitialWeights(counting, from, trainer);
      bytes[trainer.ranks().rank()] = counting.bytes_read();
      return status;
    }));
    return *std::max_element(bytes.begin(), bytes.end());
  };
  const int64_t all = weights_.flat().bytes();
  for (const std::string& from : {one_, checkpoint_}) {
    EXPECT_GE(fewest(from, {1, 1, 1}), all * 9 / 10);
    EXPECT_LT(fewest(from, {kRanks, 1, 1}), all / 2) << from;
  }
}

TEST_F(InitialWeightsTest, DamageIsKnownToAllRanks) {
  const std::string path = one_ + "/model.safetensors";
  std::string bytes = ReadText(path);
  bytes.back() ^= 1;
  WriteText(path, bytes);
  const absl::Status status = TrainFrom(Config(), {2, 1, 1}, one_).status();
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(path), HasSubstr("is damaged")));
}

class FindInitialWeightsTest : public InitialWeightsTest {
 protected:
  absl::StatusOr<std::string> Find(const std::string& from,
                                   const std::vector<std::string>& overrides = {},
                                   const ShardTokenizer& tokenizer = TestTokenizer()) {
    v1::RunConfig config = Config();
    config.mutable_train()->set_init_from(from);
    EXPECT_OK(ApplyOverrides(overrides, &config));
    return FindInitialWeights(fs_, config, tokenizer, directory_ / "run");
  }
};

TEST_F(FindInitialWeightsTest, WhereverTheyAre) {
  EXPECT_EQ(Find("").value(), "");
  for (const std::string& from : {one_, cut_, checkpoint_}) EXPECT_EQ(Find(from).value(), from);
  EXPECT_EQ(Find(directory_ / "other").value(), checkpoint_);
  EXPECT_THAT(Failure(Find(directory_ / "none")),
              HasSubstr("train.init_from: " + (directory_ / "none") + " is not a model directory"));
  std::filesystem::remove(checkpoint_ + "/manifest.pb");
  EXPECT_THAT(Failure(Find(directory_ / "other")), HasSubstr("holds no whole checkpoint"));
}

TEST_F(FindInitialWeightsTest, WhatDoesNotChangeWeightsMayDiffer) {
  testing::internal::CaptureStderr();
  EXPECT_OK(Find(
      one_, {"train.sequence_length=48", "train.slice=16", "train.seed=3", "train.steps=1000",
             "train.optimizer.learning_rate=0.5", "execution.precision=F64",
             "data.document_reset=CHUNK", "parallel.tp=2", "model.memory.gates.alpha_first=0.01"}));
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  testing::internal::CaptureStderr();
  EXPECT_OK(Find(one_, {"model.attention.window=16", "model.memory.chunk=8"}));
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr("was trained with model.attention.window = 8, and goes on with 16"),
                    HasSubstr("model.memory.chunk = 4, and goes on with 8")));
}

TEST_F(FindInitialWeightsTest, AnotherModelIsRefusedByItsFirstDifference) {
  const auto refusal = [&](const std::string& override) {
    return Failure(Find(cut_, {override, "train.seed=3", "model.memory.chunk=8"}));
  };
  EXPECT_EQ(refusal("model.layers=3"),
            "train.init_from: " + cut_ +
                "/config.json is of another model: model.layers is 2 there and 3 here; take the "
                "same, or weights of this model");
  EXPECT_THAT(refusal("model.block=MAL"), HasSubstr("model.block is MAG there and MAL here"));
  EXPECT_THAT(refusal("model.width=32"), HasSubstr("model.width is 16 there and 32 here"));
  EXPECT_THAT(refusal("model.vocabulary=512"), HasSubstr("model.vocabulary is 264 there and 512"));
  EXPECT_THAT(refusal("model.memory.activation=GELU"),
              HasSubstr("model.memory.activation is SILU there and GELU here"));
  EXPECT_THAT(refusal("model.memory.gates.theta_max=0.5"),
              HasSubstr("model.memory.gates.theta_max is "));
  EXPECT_THAT(Failure(Find(checkpoint_, {"model.layers=3"})),
              HasSubstr(checkpoint_ + "/manifest.pb is of another model"));
}

TEST_F(FindInitialWeightsTest, AnotherTokenizerIsRefused) {
  ShardTokenizer other = TestTokenizer();
  other.hash.bytes[0] ^= 1;
  for (const std::string& from : {one_, checkpoint_}) {
    EXPECT_THAT(Failure(Find(from, {}, other)),
                AllOf(HasSubstr("trained with the bytes tokenizer "), HasSubstr(other.hash.Hex()),
                      HasSubstr("prepare them again")));
  }
}

// A file that does not go with its own configuration.
TEST_F(FindInitialWeightsTest, TensorsThatDoNotFitAreNamed) {
  std::string text = ReadText(one_ + "/config.json");
  const size_t at = text.find("\"layers\": 2");
  ASSERT_NE(at, std::string::npos);
  text.replace(at, 11, "\"layers\": 1");
  WriteText(one_ + "/config.json", text);
  EXPECT_THAT(Failure(Find(one_, {"model.layers=1"})),
              AllOf(HasSubstr(one_ + "/model.safetensors: tensor layers.1."),
                    HasSubstr("is not part of the model")));
}

TEST_F(FindInitialWeightsTest, WeightsInTheRunsOwnDirectoryAreRefused) {
  const std::string run = directory_ / "run";
  ASSERT_OK(ExportModel(fs_, one_, run + "/model"));
  std::filesystem::create_directory_symlink(run, directory_ / "link");
  for (const std::string& from :
       {run, run + "/model", run + "/../run/model", (directory_ / "link") + "/model"}) {
    EXPECT_THAT(Failure(Find(from)), HasSubstr("lies in the run's own directory")) << from;
  }
  ASSERT_OK(ExportModel(fs_, one_, directory_ / "run2"));
  EXPECT_OK(Find(directory_ / "run2"));
}

}  // namespace
}  // namespace mnemo
