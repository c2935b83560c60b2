#include "src/ckpt/checkpoint_difference.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/ckpt/checkpoint_test_util.h"
#include "tests/ckpt/scratch_directory.h"

namespace mnemo {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

FileSystem& Fs() { return FileSystem::Posix(); }

class CheckpointDifferenceTest : public testing::Test {
 protected:
  CheckpointReader Save(const std::string& name, const TestState& state, int ranks,
                        int64_t piece_bytes = 64, int64_t step = 1) {
    const auto directory = SaveState(Fs(), scratch_ / name, step, state, ranks, piece_bytes);
    return CheckpointReader::Open(Fs(), directory.value()).value();
  }
  TestState With(int tensor, const std::vector<double>& values) const {
    TestState state = MakeState(1);
    state[tensor].value = Tensor::FromHost(
        std::span<const double>(values), state[tensor].value.shape(), state[tensor].value.dtype());
    return state;
  }

  const ScratchDirectory scratch_;
};

TEST_F(CheckpointDifferenceTest, TheSameStateOfOtherRanksAndPiecesIsEqual) {
  const auto same = CompareCheckpoints(Save("a", MakeState(1), 3), Save("b", MakeState(1), 2, 40));
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_TRUE(same->none());
  EXPECT_EQ(same->compared, 6);
}

TEST_F(CheckpointDifferenceTest, OneElementIsFoundWithItsDistance) {
  std::vector<double> values = MakeState(1)[2].value.ToDoubles();
  double scale = 0;
  for (const double x : values) scale = std::max(scale, std::abs(x));
  values[41] += 0.25;
  const CheckpointReader a = Save("a", MakeState(1), 3), b = Save("b", With(2, values), 2);
  const auto found = CompareCheckpoints(a, b);
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_THAT(found->tensors, SizeIs(1));
  EXPECT_EQ(found->tensors[0].name, "first_moment/embedding.weight");
  EXPECT_EQ(found->tensors[0].kind, "");
  EXPECT_EQ(found->tensors[0].elements, 1);
  EXPECT_NEAR(found->tensors[0].largest, 0.25, 1e-15);
  EXPECT_NEAR(found->tensors[0].relative, 0.25 / scale, 1e-15);
  EXPECT_FALSE(found->none());
}

TEST_F(CheckpointDifferenceTest, SignsOfZeroAndNumbersThatAreNoneAreDifferences) {
  const auto compare = [&](double x, double y) {
    const std::string name = fmt::format("{}", x);
    return CompareCheckpoints(Save(name + "a", With(3, {x}), 1), Save(name + "b", With(3, {y}), 1))
        .value()
        .tensors.at(0);
  };
  EXPECT_EQ(compare(0.0, -0.0).largest, 0);
  EXPECT_EQ(compare(1, 1.5).relative, 0.5);
  EXPECT_TRUE(std::isnan(compare(std::nan(""), 2).largest));
  EXPECT_TRUE(std::isinf(compare(std::numeric_limits<double>::infinity(), 2).largest));
}

TEST_F(CheckpointDifferenceTest, MissingTensorsOtherKindsAndOtherSteps) {
  TestState fewer = MakeState(1), other = MakeState(1);
  fewer.pop_back();
  other[0].value = other[0].value.To(DType::kF64);
  const CheckpointReader whole = Save("a", MakeState(1), 2), without = Save("b", fewer, 2);
  EXPECT_EQ(CompareCheckpoints(whole, without)->tensors.at(0).kind, "only in the first");
  EXPECT_EQ(CompareCheckpoints(without, whole)->tensors.at(0).kind, "only in the second");
  EXPECT_EQ(CompareCheckpoints(whole, Save("c", other, 2))->tensors.at(0).kind,
            "f32 [13, 6] and f64 [13, 6]");
  const auto later = CompareCheckpoints(whole, Save("d", MakeState(1), 2, 64, 7));
  EXPECT_THAT(later->tensors, IsEmpty());
  ASSERT_THAT(later->training, SizeIs(1));
  EXPECT_EQ(later->training[0].path, "step");
  EXPECT_EQ(later->training[0].after, "7");
  EXPECT_FALSE(later->none());
}

TEST_F(CheckpointDifferenceTest, ADamagedPieceIsAnErrorNotADifference) {
  const CheckpointReader a = Save("a", MakeState(1), 1), b = Save("b", MakeState(1), 1);
  const v1::CheckpointPiece& piece = b.manifest().tensors(0).pieces(0);
  const std::string path = b.directory() + "/rank-00000.h5";
  ChangeFile(path, [&](std::string& bytes) { bytes[piece.byte_offset()] ^= 1; });
  EXPECT_THAT(std::string(CompareCheckpoints(a, b).status().message()),
              HasSubstr(path + ": piece "));
}

}  // namespace
}  // namespace mnemo
