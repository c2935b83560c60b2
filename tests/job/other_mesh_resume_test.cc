// A run that goes on under another mesh takes the same steps on the same text, to rounding.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "src/job/training_run.h"
#include "src/parallel/thread_transport.h"
#include "tests/data/data_test_util.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

constexpr int64_t kBefore = 10, kAfter = 50;  // steps under each mesh
// Losses are means of 128 f32 numbers near 5, computed from weights that AdamW has taken apart by
// the order of their gradients' sums: one rounding, 6e-8, of each of 50 steps' updates. Seen: 2e-8.
constexpr double kApart = kAfter * 6e-8;

struct Change {
  Mesh from, to;
  int zero_from = 1, zero_to = 1;
};

class OtherMeshResumeTest : public testing::TestWithParam<Change> {
 protected:
  OtherMeshResumeTest() {
    std::filesystem::create_directories(directory_ / "data");
    // More than one epoch: 240 sequences are wanted of fewer.
    WriteShard(directory_ / "data/train-00000.h5", RandomDocuments(40, 60, 256, 1),
               TestTokenizer());
    config_ = TinyRun(v1::MAG);
    v1::TrainConfig& train = *config_.mutable_train();
    train.set_steps(kBefore + kAfter);
    train.set_sequence_length(32);
    train.set_accumulation(2);
    train.set_micro_batches(2);
    config_.mutable_data()->add_shards(directory_ / "data");
  }

  std::string Run(const std::string& name) const { return directory_ / (name + "/run"); }

  // Up to `last` steps of the run; stops there if it has more.
  void Train(const std::string& name, const Mesh& mesh, int zero, int64_t last) {
    config_.mutable_parallel()->set_dp(mesh.dp);
    config_.mutable_parallel()->set_sp(mesh.sp);
    config_.mutable_parallel()->set_tp(mesh.tp);
    config_.mutable_parallel()->set_zero(zero);
    ASSERT_OK(RunOnThreads(mesh.size(), {}, [&](Transport& transport) {
      TrainingRunOptions options = TinyRunOptions(config_, Run(name));
      if (mesh.size() > 1) options.transport = &transport;
      int64_t steps = 0;
      options.on_phase = [&](int64_t taken, std::string_view phase) {
        if (phase == "update") steps = taken + 1;
      };
      options.wishes = [&] {
        return steps == last ? StepWishes{.stop = true, .save = true} : StepWishes{};
      };
      const auto result = RunTraining(options);
      EXPECT_OK(result);
      return result.status();
    }));
  }

  std::vector<double> Losses(const std::string& name) const {
    std::istringstream lines(ReadText(Run(name) + "/metrics.jsonl"));
    std::vector<double> losses;
    for (std::string line; std::getline(lines, line);) {
      const nlohmann::json metrics = nlohmann::json::parse(line);
      losses.push_back(metrics["loss"]);
      EXPECT_EQ(metrics["step"], losses.size());
    }
    return losses;
  }

  TestDirectory directory_;
  v1::RunConfig config_;
};

TEST_P(OtherMeshResumeTest, TakesTheSameSteps) {
  const Change& change = GetParam();
  constexpr int64_t kAll = kBefore + kAfter;
  ASSERT_NO_FATAL_FAILURE(Train("whole", change.from, change.zero_from, kAll));
  ASSERT_NO_FATAL_FAILURE(Train("halves", change.from, change.zero_from, kBefore));
  ASSERT_NO_FATAL_FAILURE(Train("halves", change.to, change.zero_to, kAll));
  const std::vector<double> whole = Losses("whole"), halves = Losses("halves");
  ASSERT_EQ(whole.size(), size_t{kAll});
  ASSERT_EQ(halves.size(), size_t{kAll});
  double apart = 0;
  for (int64_t step = 0; step < kAll; ++step) {
    const double difference = std::abs(halves[step] - whole[step]) / whole[step];
    if (step < kBefore) {
      EXPECT_EQ(difference, 0) << "step " << step + 1 << " was taken under the same mesh";
    }
    EXPECT_LT(difference, kApart) << "step " << step + 1;
    apart = std::max(apart, difference);
  }
  // Learning, so that other text or other weights would show.
  EXPECT_LT(whole.back(), whole.front() - 0.1);
  RecordProperty("apart", fmt::format("{:.1e}", apart));
  fmt::print("at most {:.1e} of a loss apart\n", apart);
}

std::string NameOf(const testing::TestParamInfo<Change>& info) {
  const auto name = [](const Mesh& mesh, int zero) {
    return fmt::format("Dp{}Sp{}Tp{}Zero{}", mesh.dp, mesh.sp, mesh.tp, zero);
  };
  return name(info.param.from, info.param.zero_from) + "To" +
         name(info.param.to, info.param.zero_to);
}

INSTANTIATE_TEST_SUITE_P(Changes, OtherMeshResumeTest,
                         testing::Values(Change{{4, 1, 1}, {1, 1, 1}}, Change{{1, 1, 1}, {1, 4, 1}},
                                         Change{{1, 1, 2}, {1, 1, 1}}, Change{{2, 1, 2}, {1, 2, 1}},
                                         Change{{1, 2, 1}, {2, 1, 2}, 1, 0},
                                         Change{{2, 1, 1}, {4, 1, 1}, 0, 1}),
                         NameOf);

}  // namespace
}  // namespace mnemo
