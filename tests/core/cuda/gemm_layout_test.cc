#include "src/core/cuda/gemm_layout.h"

#include <gtest/gtest.h>

#include <vector>

namespace mnemo::cuda {
namespace {

View Make(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  View view;
  view.rank = static_cast<int>(shape.size());
  for (int i = 0; i < view.rank; ++i) {
    view.shape[i] = shape[i];
    view.strides[i] = strides[i];
  }
  return view;
}

View Dense(const std::vector<int64_t>& shape) {
  return Dense(Make(shape, std::vector<int64_t>(shape.size())), nullptr);
}

TEST(GemmLayout, FindsRowsAndTheirTranspose) {
  EXPECT_EQ(LayoutOf(Make({3, 4}, {9, 1})), (MatrixLayout{false, 9}));
  EXPECT_EQ(LayoutOf(Make({3, 4}, {1, 5})), (MatrixLayout{true, 5}));
  EXPECT_EQ(LayoutOf(Make({3, 4}, {8, 2})), std::nullopt);
  EXPECT_EQ(LayoutOf(Make({3, 4}, {0, 1})), std::nullopt);  // repeated rows
  EXPECT_EQ(LayoutOf(Make({3, 4}, {1, 0})), std::nullopt);
  EXPECT_EQ(LayoutOf(Make({3, 4}, {3, 1})), std::nullopt);  // rows overlap
}

// A stride that is never taken does not make a copy, and an odd one does not slow a kernel down.
TEST(GemmLayout, VectorsHaveOneWhateverTheOtherStride) {
  EXPECT_EQ(LayoutOf(Make({1, 4}, {77, 1})), (MatrixLayout{false, 8}));
  EXPECT_EQ(LayoutOf(Make({1, 4}, {0, 1})), (MatrixLayout{false, 8}));
  EXPECT_EQ(LayoutOf(Make({1, 4}, {4, 3})), (MatrixLayout{true, 3}));
  EXPECT_EQ(LayoutOf(Make({4, 1}, {1, 1})), (MatrixLayout{true, 8}));
  EXPECT_EQ(LayoutOf(Make({4, 1}, {6, 0})), (MatrixLayout{false, 6}));
  EXPECT_EQ(LayoutOf(Make({1, 1}, {0, 0})), (MatrixLayout{false, 8}));
  EXPECT_EQ(LayoutOf(Make({1, 4}, {4, 0})), std::nullopt);
}

TEST(GemmLayout, TransposingTurnsOneLayoutIntoTheOther) {
  for (const View& x : {Make({3, 4}, {9, 1}), Make({3, 4}, {1, 5}), Make({1, 4}, {4, 1}),
                        Make({4, 1}, {1, 4}), Make({1, 4}, {4, 3}), Make({4, 1}, {6, 6})}) {
    EXPECT_NE(LayoutOf(x)->transposed, LayoutOf(Transposed(x))->transposed);
    EXPECT_EQ(LayoutOf(x)->ld, LayoutOf(Transposed(x))->ld);
  }
}

TEST(GemmLayout, PadsRowsOfCopies) {
  const View x = Dense(Make({2, 3, 5}, {0, 0, 1}), nullptr, 8);
  EXPECT_EQ(x.strides[0], 24);
  EXPECT_EQ(x.strides[1], 8);
  EXPECT_EQ(x.strides[2], 1);
  EXPECT_EQ(DenseBytes(x, 8), 2 * 3 * 8 * 4);
}

TEST(GemmLayout, FoldsABatchWithOneRightFactor) {
  View a = Dense({2, 3, 4, 5}), b = Make({2, 3, 5, 6}, {0, 0, 6, 1}), out = Dense({2, 3, 4, 6});
  ASSERT_TRUE(FoldBatchIntoRows(&a, &b, &out));
  EXPECT_EQ(a.rank, 2);
  EXPECT_EQ(a.shape[0], 24);
  EXPECT_EQ(a.strides[0], 5);
  EXPECT_EQ(b.rank, 2);
  EXPECT_EQ(b.shape[0], 5);
  EXPECT_EQ(out.shape[0], 24);
  EXPECT_EQ(out.shape[1], 6);
}

TEST(GemmLayout, FoldsRowsOfOne) {
  View a = Make({7, 1, 5}, {10, 5, 1}), b = Make({7, 5, 6}, {0, 6, 1}), out = Dense({7, 1, 6});
  ASSERT_TRUE(FoldBatchIntoRows(&a, &b, &out));
  EXPECT_EQ(a.strides[0], 10);
  EXPECT_EQ(out.strides[0], 6);
}

TEST(GemmLayout, DoesNotFoldWhatIsNoView) {
  View a = Make({2, 3, 4}, {16, 4, 1}), b = Make({2, 4, 6}, {0, 6, 1}), out = Dense({2, 3, 6});
  EXPECT_FALSE(FoldBatchIntoRows(&a, &b, &out));  // a gap between the sequences of a
  a = Dense({2, 3, 4});
  b = Dense({2, 4, 6});
  EXPECT_FALSE(FoldBatchIntoRows(&a, &b, &out));  // two right factors
  a = Make({2, 3, 4}, {0, 4, 1});
  b = Make({2, 4, 6}, {0, 6, 1});
  EXPECT_FALSE(FoldBatchIntoRows(&a, &b, &out));  // one left factor for both
  EXPECT_EQ(a.rank, 3);
  EXPECT_EQ(a.shape[0], 2);
}

TEST(GemmLayout, MergesLeadingDims) {
  const BatchDims dims =
      BatchDimsOf(Dense({2, 3, 4, 5}), Make({2, 3, 5, 6}, {0, 0, 6, 1}), Dense({2, 3, 4, 6}));
  EXPECT_EQ(dims.rank, 1);
  EXPECT_EQ(dims.sizes[0], 6);
  EXPECT_EQ(dims.a[0], 20);
  EXPECT_EQ(dims.b[0], 0);
  EXPECT_EQ(dims.out[0], 24);
  EXPECT_EQ(dims.outer(), 1);
}

// Heads as views of rows of tokens: sequences and heads stay two dims, the larger one is batched.
TEST(GemmLayout, BatchesTheLargestDim) {
  const View heads = Make({2, 3, 4, 5}, {60, 5, 15, 1});
  BatchDims dims = BatchDimsOf(heads, Dense({2, 3, 5, 6}), Dense({2, 3, 4, 6}));
  ASSERT_EQ(dims.rank, 2);
  EXPECT_EQ(dims.sizes[1], 3);
  EXPECT_EQ(dims.a[1], 5);
  EXPECT_EQ(dims.out[1], 24);
  EXPECT_EQ(dims.sizes[0], 2);
  EXPECT_EQ(dims.a[0], 60);
  EXPECT_EQ(dims.outer(), 2);
  dims = BatchDimsOf(Make({9, 3, 4, 5}, {60, 5, 15, 1}), Dense({9, 3, 5, 6}), Dense({9, 3, 4, 6}));
  EXPECT_EQ(dims.sizes[1], 9);
  EXPECT_EQ(dims.outer(), 3);
}

TEST(GemmLayout, MatricesAreABatchOfOne) {
  const BatchDims dims = BatchDimsOf(Dense({4, 5}), Dense({5, 6}), Dense({4, 6}));
  EXPECT_EQ(dims.rank, 1);
  EXPECT_EQ(dims.sizes[0], 1);
  EXPECT_EQ(BatchDimsOf(Dense({1, 1, 4, 5}), Dense({1, 1, 5, 6}), Dense({1, 1, 4, 6})).sizes[0], 1);
}

}  // namespace
}  // namespace mnemo::cuda
