// Whole runs that begin with the weights of another.
#include "src/model/saved_model.h"
#include "tests/job/training_mesh_fixture.h"

namespace mnemo {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class InitialWeightsRunTest : public TrainingMeshTest {
 protected:
  // A run of 6 steps, and its weights in several files; `config_` is that of a run from these.
  void SetUp() override {
    ASSERT_OK(Train(Options("source")));
    ASSERT_OK(ExportModel(FileSystem::Posix(), Run("source"), export_, 3000));
    config_.mutable_train()->set_seed(5);
    config_.mutable_train()->set_init_from(export_);
    config_.mutable_train()->mutable_optimizer()->set_learning_rate(1e-3);
  }
  v1::TrainingState LastOf(const std::string& name) const {
    const auto reader =
        CheckpointReader::Open(FileSystem::Posix(), Run(name) + "/checkpoints/step-000000000006");
    EXPECT_OK(reader);
    return reader->manifest().training();
  }

  const std::string export_ = directory_ / "export";
};

INSTANTIATE_TEST_SUITE_P(Meshes, InitialWeightsRunTest,
                         testing::Values(Mesh{1, 1, 1}, Mesh{2, 2, 1}, Mesh{1, 1, 2}), NameOfMesh);

TEST_P(InitialWeightsRunTest, BeginsAtStepZeroWithThemAndSaysSo) {
  ASSERT_TRUE(std::filesystem::exists(export_ + "/model.safetensors.index.json"));
  testing::internal::CaptureStderr();
  const auto result = Train(Options("tuned"));
  const std::string log = testing::internal::GetCapturedStderr();
  ASSERT_OK(result);
  EXPECT_EQ(result->first_step, 0);
  EXPECT_THAT(log, HasSubstr("beginning with the weights of " + export_));
  // It knows what the other has learnt, and goes on learning.
  const auto source = Metrics("source"), tuned = Metrics("tuned");
  ASSERT_EQ(tuned.size(), 6u);
  EXPECT_LT(tuned[0]["loss"], source[0]["loss"].get<double>() - 0.1);
  EXPECT_EQ(LastOf("tuned").updates(), 6);
  EXPECT_EQ(LastOf("tuned").initial_weights(), export_);
  EXPECT_EQ(LastOf("source").initial_weights(), "");
  EXPECT_THAT(ReadText(Run("tuned") + "/config.textproto"), HasSubstr("init_from: \"" + export_));

  // The same of the run itself, whose newest checkpoint has these weights.
  config_.mutable_train()->set_init_from(Run("source"));
  ASSERT_OK(Train(Options("other")));
  const auto other = Metrics("other");
  for (size_t i = 0; i < tuned.size(); ++i) EXPECT_EQ(other[i]["loss"], tuned[i]["loss"]) << i;
  EXPECT_EQ(LastOf("other").initial_weights(), Run("source") + "/checkpoints/step-000000000006");
}

TEST_P(InitialWeightsRunTest, GoesOnFromItsOwnCheckpointAndReadsThemNoMore) {
  ASSERT_OK(Train(Options("whole")));
  ASSERT_OK(Train(Options("halves"), Wish(3, {.stop = true, .save = true})));
  std::filesystem::remove_all(export_);
  const auto rest = Train(Options("halves"));
  ASSERT_OK(rest);
  EXPECT_EQ(rest->first_step, 3);
  ExpectSameRun("whole", "halves");
  EXPECT_EQ(LastOf("halves").initial_weights(), export_);
  // Other weights make another run.
  config_.mutable_train()->set_init_from(Run("source"));
  config_.mutable_train()->set_steps(8);
  EXPECT_THAT(Failure(Train(Options("halves"))),
              HasSubstr("belongs to another run: train.init_from was \"" + export_ + "\" there"));
}

TEST_P(InitialWeightsRunTest, NothingIsDiscardedForWeightsThatCannotBeUsed) {
  ASSERT_OK(Train(Options("tuned")));
  const std::string before = Snapshot(Run("tuned"));
  TrainingRunOptions options = Options("tuned");
  options.overwrite = true;
  const auto refusal = [&](const std::string& from) {
    options.written.mutable_train()->set_init_from(from);
    const std::string why = Failure(Train(options));
    EXPECT_EQ(Snapshot(Run("tuned")), before);
    return why;
  };
  EXPECT_THAT(refusal("/nowhere"), HasSubstr("train.init_from: /nowhere is not a model directory"));
  EXPECT_THAT(refusal(Run("tuned") + "/model"), HasSubstr("lies in the run's own directory"));
  options.written.mutable_model()->set_layers(2);
  EXPECT_THAT(refusal(export_), HasSubstr("model.layers is 1 there and 2 here"));
  options.written.mutable_model()->set_layers(1);
  options.written.mutable_train()->set_init_from(export_);
  std::string damaged;
  for (const auto& file : std::filesystem::directory_iterator(export_)) {
    if (file.path().extension() == ".safetensors") damaged = file.path();
  }
  std::string bytes = ReadText(damaged);
  bytes.back() ^= 1;
  WriteText(damaged, bytes);
  EXPECT_THAT(refusal(export_), HasSubstr("is damaged"));
  bytes.back() ^= 1;
  WriteText(damaged, bytes);
  ASSERT_OK(Train(options));
}

}  // namespace
}  // namespace mnemo
