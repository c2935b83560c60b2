// Whole training runs on one rank or many, in directories of their own, and what they left behind.
#pragma once

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "src/ckpt/checkpoint_directory.h"
#include "src/ckpt/checkpoint_reader.h"
#include "src/job/training_run.h"
#include "src/parallel/thread_transport.h"
#include "tests/data/data_test_util.h"
#include "tests/job/job_test_util.h"

namespace mnemo {

class TrainingMeshTest : public testing::TestWithParam<Mesh> {
 protected:
  // 6 steps of 2 sequences, from a text that has fewer than 12: more than one epoch.
  TrainingMeshTest() {
    std::filesystem::create_directories(directory_ / "data");
    WriteShard(directory_ / "data/train-00000.h5", RandomDocuments(4, 60, 256, 1), TestTokenizer());
    WriteShard(directory_ / "data/eval-00000.h5", RandomDocuments(5, 60, 256, 2), TestTokenizer());
    config_ = TinyRun(v1::LMM);
    config_.mutable_model()->set_layers(1);
    config_.mutable_model()->mutable_memory()->set_chunk(8);
    config_.mutable_train()->set_accumulation(2);
    config_.mutable_train()->set_evaluate_every(4);
    config_.mutable_data()->add_shards(directory_ / "data");
    config_.mutable_data()->add_evaluation(directory_ / "data");
    config_.mutable_parallel()->set_dp(GetParam().dp);
    config_.mutable_parallel()->set_sp(GetParam().sp);
    config_.mutable_parallel()->set_tp(GetParam().tp);
  }

  // The directory's last name is in the loss curve.
  std::string Run(const std::string& name) const { return directory_ / (name + "/run"); }
  TrainingRunOptions Options(const std::string& name) const {
    return TinyRunOptions(config_, Run(name));
  }
  // On all ranks of the mesh; `change` sees the options of each. By rank. No rank is helped to end
  // when another fails.
  std::vector<absl::StatusOr<TrainingRunResult>> TrainAll(
      const TrainingRunOptions& options,
      const std::function<void(int rank, TrainingRunOptions&)>& change = {}) const {
    const int ranks = GetParam().size();
    std::vector<absl::StatusOr<TrainingRunResult>> results(ranks);
    EXPECT_OK(RunOnThreads(ranks, {}, [&](Transport& transport) {
      TrainingRunOptions own = options;
      if (ranks > 1) own.transport = &transport;
      if (change) change(transport.rank(), own);
      results[transport.rank()] = RunTraining(own);
      return absl::OkStatus();
    }));
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_EQ(results[rank].ok(), results[0].ok()) << rank << ": " << results[rank].status();
      EXPECT_TRUE(!results[rank].ok() || results[rank]->first_rank == (rank == 0));
    }
    return results;
  }
  // The first rank's result.
  absl::StatusOr<TrainingRunResult> Train(
      const TrainingRunOptions& options,
      const std::function<void(int rank, TrainingRunOptions&)>& change = {}) const {
    return TrainAll(options, change)[0];
  }
  // Of the last rank only: what one wishes, all do.
  static auto Wish(int64_t step, StepWishes wishes) {
    return [=](int rank, TrainingRunOptions& options) {
      if (rank != options.written.parallel().dp() * options.written.parallel().sp() *
                          options.written.parallel().tp() -
                      1) {
        return;
      }
      auto steps = std::make_shared<int64_t>(0);
      options.on_phase = [steps](int64_t taken, std::string_view phase) {
        if (phase == "update") *steps = taken + 1;
      };
      options.wishes = [=] { return *steps == step ? wishes : StepWishes{}; };
    };
  }

  std::vector<nlohmann::json> Metrics(const std::string& name) const {
    std::istringstream lines(ReadText(Run(name) + "/metrics.jsonl"));
    std::vector<nlohmann::json> all;
    for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line));
    return all;
  }
  std::vector<int64_t> Checkpoints(const std::string& name) const {
    std::vector<int64_t> steps;
    const auto entries = ListCheckpoints(FileSystem::Posix(), Run(name) + "/checkpoints");
    EXPECT_OK(entries);
    for (const auto& entry : *entries) {
      EXPECT_EQ(entry.state, CheckpointState::kWhole) << entry.problem;
      steps.push_back(entry.name.step);
    }
    return steps;
  }
  // Until another thread has committed a checkpoint.
  void AwaitWhole(const std::string& name, int64_t step) const {
    const std::string path = fmt::format("{}/checkpoints/step-{:012}", Run(name), step);
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!std::filesystem::exists(path)) {
      ASSERT_LT(std::chrono::steady_clock::now(), give_up) << path;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  void ExpectSameRun(const std::string& one, const std::string& other) const {
    const auto a = Metrics(one), b = Metrics(other);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      for (const char* field : {"step", "loss", "gradient_norm", "learning_rate", "tokens"}) {
        EXPECT_EQ(a[i][field], b[i][field]) << field << " of line " << i;
      }
      EXPECT_EQ(a[i].value("evaluation_loss", -1.0), b[i].value("evaluation_loss", -1.0));
    }
    EXPECT_EQ(Snapshot(Run(one) + "/model"), Snapshot(Run(other) + "/model"));
    EXPECT_EQ(ReadText(Run(one) + "/loss.svg"), ReadText(Run(other) + "/loss.svg"));
    const std::string last = "/checkpoints/step-000000000006";
    for (int rank = 0; rank < GetParam().size(); ++rank) {
      const std::string file = fmt::format("{}/rank-{:05}.h5", last, rank);
      EXPECT_EQ(ReadText(Run(one) + file), ReadText(Run(other) + file));
    }
    const auto of = [&](const std::string& name) {
      return CheckpointReader::Open(FileSystem::Posix(), Run(name) + last)
          ->manifest()
          .training()
          .SerializeAsString();
    };
    EXPECT_EQ(of(one), of(other));
  }

  TestDirectory directory_;
  v1::RunConfig config_;
};

inline std::string NameOfMesh(const testing::TestParamInfo<Mesh>& info) {
  return fmt::format("Dp{}Sp{}Tp{}", info.param.dp, info.param.sp, info.param.tp);
}

}  // namespace mnemo
