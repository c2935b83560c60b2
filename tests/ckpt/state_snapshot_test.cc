#include "src/ckpt/state_snapshot.h"

#include <gtest/gtest.h>

#include "src/core/backend.h"
#include "tests/ckpt/checkpoint_test_util.h"

namespace mnemo {
namespace {

// Every dtype and rank, an empty tensor, and columns, which do not lie together.
TEST(StateSnapshotTest, CopiesStayAsTheValuesWere) {
  const TestState state = MakeState(1);
  for (int rank = 0; rank < 3; ++rank) {
    const std::vector<StatePiece> pieces = PiecesOf(state, rank, 3);
    StateSnapshot snapshot;
    const auto copies = snapshot.Take(pieces);
    ASSERT_TRUE(copies.ok()) << copies.status();
    ASSERT_EQ(copies->size(), pieces.size());
    for (size_t i = 0; i < pieces.size(); ++i) {
      const StatePiece &piece = pieces[i], &copy = (*copies)[i];
      EXPECT_EQ(copy.name, piece.name);
      EXPECT_EQ(copy.whole, piece.whole);
      EXPECT_EQ(copy.begin, piece.begin);
      ASSERT_TRUE(copy.value.contiguous());
      const std::string before = BytesOf(piece.value.Contiguous());
      EXPECT_EQ(BytesOf(copy.value), before) << piece.name;
      Backend::For({}).Fill(piece.value, 77);
      EXPECT_EQ(BytesOf(copy.value), before) << piece.name;
    }
  }
}

TEST(StateSnapshotTest, TakesTheMemoryThatWasReserved) {
  const std::vector<StatePiece> pieces = PiecesOf(MakeState(1), 0, 1);
  StateSnapshot snapshot;
  EXPECT_EQ(snapshot.bytes(), 0);
  ASSERT_TRUE(snapshot.Reserve(pieces).ok());
  int64_t bytes = 0;
  for (const StatePiece& piece : pieces) bytes += piece.value.bytes();
  const int64_t held = snapshot.bytes();
  EXPECT_GE(held, bytes);
  EXPECT_LE(held, bytes + 64 * static_cast<int64_t>(pieces.size()));
  const int64_t before = Backend::For({}).Memory().current_bytes;
  ASSERT_TRUE(snapshot.Take(pieces).ok());
  EXPECT_TRUE(snapshot.Wait().ok());
  EXPECT_EQ(Backend::For({}).Memory().current_bytes, before);
  snapshot.Release();
  EXPECT_EQ(Backend::For({}).Memory().current_bytes, before - held);
}

TEST(StateSnapshotTest, TheNextCopyTakesTheMemoryOfTheLast) {
  const std::vector<StatePiece> pieces = PiecesOf(MakeState(1), 0, 1);
  StateSnapshot snapshot;
  const auto first = snapshot.Take(pieces);
  ASSERT_TRUE(first.ok());
  for (const StatePiece& piece : pieces) Backend::For({}).Fill(piece.value, 3);
  const auto second = snapshot.Take(pieces);
  ASSERT_TRUE(second.ok());
  for (size_t i = 0; i < pieces.size(); ++i) {
    EXPECT_TRUE((*second)[i].value.same_view((*first)[i].value));
    EXPECT_EQ((*second)[i].value.ToDoubles(), pieces[i].value.ToDoubles());
  }
  // Another state.
  const std::vector<StatePiece> other = {WholePiece("x", Tensor::Full({5}, 2, DType::kF64))};
  EXPECT_EQ(snapshot.Take(other)->front().value.ToDoubles(), std::vector<double>(5, 2));
}

}  // namespace
}  // namespace mnemo
