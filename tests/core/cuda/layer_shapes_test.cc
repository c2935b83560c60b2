// How the kernels of norms and of the convolution are spread: everything is covered, nothing twice,
// and the GPU has work.
#include "src/core/cuda/layer_shapes.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace mnemo::cuda {
namespace {

constexpr int kMultiprocessors = 132;

TEST(LayerShapes, NormSegmentsHoldWholeParts) {
  constexpr int64_t kWarp = 32 * kLane;
  for (const int64_t width : {8, 40, 64, 96, 256, 768, 1024, 1032, 1536, 2048, 2816, 4096, 6144}) {
    for (const int64_t heads : {1, 2, 3, 12, 16, 24, 32}) {
      const NormShape shape{DType::kBF16, 5000, width, heads, 1e-6F};
      if (!SupportsNorm(shape)) continue;
      SCOPED_TRACE(testing::Message() << width << " " << heads);
      const NormGrid grid = NormGridOf(shape, kMultiprocessors, kNormBackwardBlocks);
      EXPECT_EQ(grid.width, grid.copies * width);
      EXPECT_GE(grid.rows * grid.copies, shape.rows);
      EXPECT_LT((grid.rows - 1) * grid.copies, shape.rows);
      EXPECT_LE(grid.segment, grid.team * kWarp * kNormVectors);
      EXPECT_GE(grid.segment * grid.segments, grid.width);
      EXPECT_LT(grid.segment * (grid.segments - 1), grid.width);
      EXPECT_GE(grid.teams, 1);
      EXPECT_LE(grid.team * grid.teams, kNormWarps);
      EXPECT_GE(grid.blocks, 1);
      EXPECT_LE(grid.blocks, kMultiprocessors * kNormBackwardBlocks);
      if (grid.group) {
        // Groups of lanes begin where a warp does.
        EXPECT_TRUE(grid.segments == 1 || grid.segment % kWarp == 0);
        EXPECT_EQ(grid.team, 1);
      } else {
        EXPECT_EQ(grid.segment, width / heads);
        EXPECT_EQ(grid.copies, 1);
      }
      // Several copies of a row are added up within one segment.
      EXPECT_TRUE(grid.copies == 1 || grid.segments == 1);
    }
  }
}

TEST(LayerShapes, ConvolutionRunsCoverSequences) {
  for (const int64_t batch : {1, 3, 8, 200, 5000}) {
    for (const int64_t tokens : {1, 2, 17, 100, 4096, 50001}) {
      for (const int64_t width : {64, 264, 1024, 4096}) {
        SCOPED_TRACE(testing::Message() << batch << " " << tokens << " " << width);
        const ConvShape shape{DType::kBF16, batch, tokens, width, width / 8, 1e-6F};
        const auto expect_cover = [&](const ConvGrid& grid, int64_t rows, int64_t resident) {
          EXPECT_EQ(grid.run % 4, 0);
          EXPECT_GE(grid.run * grid.runs, rows);
          EXPECT_LT(grid.run * (grid.runs - 1), rows);
          EXPECT_GE(grid.tiles * 32 * kLane, width);
          const int64_t warps = batch * grid.tiles * grid.runs;
          EXPECT_GE(grid.blocks * kConvWarps, warps);
          // Where runs could be shorter or longer, one round or nearly full ones.
          const int64_t round = kMultiprocessors * resident * kConvWarps;
          const bool free = grid.runs > 1 && grid.run > 16 && grid.run < 128;
          if (free && warps > round / 2 && warps < round * 2) {
            EXPECT_TRUE(warps <= round || warps > round * 3 / 2) << warps << " of " << round;
          }
        };
        expect_cover(ConvForwardGrid(shape, kMultiprocessors), tokens, kConvForwardBlocks);
        const ConvGrid backward = ConvBackwardGrid(shape, kMultiprocessors);
        expect_cover(backward, tokens + kConvOverlap, kConvBackwardBlocks);
        EXPECT_EQ(backward.blocks, backward.shares * backward.tiles);
      }
    }
  }
}

TEST(LayerShapes, NoTokensNoBlocks) {
  const ConvShape none{DType::kBF16, 2, 0, 64, 1, 1e-6F};
  EXPECT_EQ(ConvForwardGrid(none, kMultiprocessors).blocks, 0);
  EXPECT_EQ(ConvBackwardGrid(none, kMultiprocessors).blocks, 0);
  EXPECT_EQ(NormShares({DType::kBF16, 0, 64, 1, 1e-6F}, kMultiprocessors), 0);
}

}  // namespace
}  // namespace mnemo::cuda
