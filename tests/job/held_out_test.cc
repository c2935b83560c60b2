#include "src/job/held_out.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>

#include "src/core/status.h"
#include "src/job/run_data.h"
#include "src/parallel/thread_transport.h"
#include "tests/data/data_test_util.h"
#include "tests/job/job_test_util.h"

namespace mnemo {
namespace {

class HeldOutTest : public testing::Test {
 protected:
  HeldOutTest() {
    std::filesystem::create_directories(directory_ / "data");
    WriteShard(directory_ / "data/train-00000.h5", RandomDocuments(8, 60, 256, 1), TestTokenizer());
    WriteShard(directory_ / "data/eval-00000.h5", RandomDocuments(9, 60, 256, 2), TestTokenizer());
    written_ = TinyRun(v1::MAG);
    written_.mutable_train()->set_accumulation(4);
    written_.mutable_train()->set_evaluation_tokens(130);  // five sequences and a part of one
    written_.mutable_data()->add_shards(directory_ / "data");
    written_.mutable_data()->add_evaluation(directory_ / "data");
    written_.mutable_execution()->set_precision(v1::F64);
  }

  // Of a model with its first values. `stop`: the rank that is asked to, after its first slice.
  std::vector<std::optional<double>> Losses(const Mesh& mesh, int stop = -1) {
    std::vector<std::optional<double>> losses(mesh.size(), -1);
    const absl::Status status =
        RunOnThreads(mesh.size(), {}, [&](Transport& transport) -> absl::Status {
          MNEMO_ASSIGN_OR_RETURN(auto ranks, Ranks::Create(transport, mesh));
          MNEMO_ASSIGN_OR_RETURN(const RunData data, OpenRunData(written_, "test"));
          RandomSource source(data.config, StepShare{});
          MNEMO_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(data.config, source, *ranks));
          const auto should_stop = [&] {
            ++slices_;
            return transport.rank() == stop;
          };
          MNEMO_ASSIGN_OR_RETURN(losses[transport.rank()],
                                 EvaluateHeldOut(*trainer, *data.held_out, should_stop));
          return absl::OkStatus();
        });
    EXPECT_TRUE(status.ok()) << status;
    return losses;
  }

  TestDirectory directory_;
  v1::RunConfig written_;
  std::atomic<int> slices_ = 0;  // run, by all ranks
};

TEST_F(HeldOutTest, IsTheSameOnAnyMesh) {
  const std::optional<double> alone = Losses({})[0];
  ASSERT_TRUE(alone.has_value());
  EXPECT_GT(*alone, 4);  // about log 264
  const int slices = slices_;
  EXPECT_EQ(slices, 17);  // 130 tokens, by 8
  for (const Mesh& mesh :
       {Mesh{1, 2, 1}, Mesh{2, 1, 1}, Mesh{4, 1, 1}, Mesh{2, 2, 1}, Mesh{1, 1, 2}, Mesh{1, 2, 2}}) {
    // Sums of some hundred terms in another order; over tp, of each product's terms as well.
    slices_ = 0;
    const double tolerance = mesh.tp > 1 ? 1e-10 : 1e-13;
    for (const auto& loss : Losses(mesh)) {
      ASSERT_TRUE(loss.has_value()) << ToString(mesh);
      EXPECT_NEAR(*loss, *alone, tolerance * *alone) << ToString(mesh);
    }
    // The work is shared out. (Over tp nobody is asked.)
    EXPECT_EQ(slices_, mesh.tp == 1 ? slices : 0) << ToString(mesh);
  }
}

TEST_F(HeldOutTest, OneRankThatIsAskedToStopEndsItForAll) {
  for (const auto& loss : Losses({2, 2, 1}, 3)) EXPECT_FALSE(loss.has_value());
}

}  // namespace
}  // namespace mnemo
