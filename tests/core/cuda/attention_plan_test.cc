// How the backward pass of attention is cut, which needs no GPU.
#include <gtest/gtest.h>

#include "src/core/cuda/attention.h"

namespace mnemo::cuda {
namespace {

constexpr int64_t kLimit = int64_t{2} << 30;

BackwardPlan Plan(const Shape& q, int64_t keys, int64_t window, bool deterministic = true) {
  AttentionPart part;
  part.rows = keys;
  part.window = window;
  return PlanBackward(q, part, deterministic, kLimit);
}

TEST(BackwardPlan, StaysWithinTheLimit) {
  struct Case {
    int64_t sequences, heads, queries, keys;
    int64_t want_sequences, want_heads, want_queries;  // at a time
  };
  for (const Case& c : {
           Case{1, 16, 2048, 2048, 1, 16, 2048},          // all at once
           Case{8, 16, 4096, 4096, 4, 16, 4096},          // 64 heads fit: half of the sequences
           Case{7, 16, 4096, 4096, 4, 16, 4096},          // 4 and 3, not 4, 3
           Case{9, 16, 4096, 4096, 3, 16, 4096},          // three even pieces
           Case{2, 16, 16384, 16384, 1, 4, 16384},        // 4 heads of one sequence
           Case{1, 9, 16384, 16384, 1, 3, 16384},         // three even pieces of heads
           Case{1, 16, 32768, 32768, 1, 1, 32768},        // a head just fits
           Case{1, 16, 65536, 65536, 1, 1, 16384},        // a quarter of a head's queries
           Case{1, 1, 200, int64_t{1} << 40, 1, 1, 128},  // never less than that
       }) {
    SCOPED_TRACE(testing::PrintToString(c.sequences) + " x " + testing::PrintToString(c.heads) +
                 " x " + testing::PrintToString(c.queries));
    const BackwardPlan plan = Plan({c.sequences, c.heads, c.queries, 64}, c.keys, 0);
    EXPECT_EQ(plan.sequences, c.want_sequences);
    EXPECT_EQ(plan.heads, c.want_heads);
    EXPECT_EQ(plan.blocks[0].queries, c.want_queries);
    EXPECT_EQ(plan.sums_in_f32, plan.blocks.size() > 1);
    if (plan.blocks[0].queries > 128) {
      EXPECT_LE(plan.sequences * plan.heads * SdpaScoreBytes(c.want_queries, c.keys), kLimit);
    }
  }
}

TEST(BackwardPlan, CutsAWindowIntoBlocks) {
  // A first block without keys before it, the others alike.
  const BackwardPlan first = Plan({8, 16, 8192, 64}, 8192, 512);
  EXPECT_EQ(first.sequences, 1);
  EXPECT_EQ(first.heads, 16);
  EXPECT_EQ(first.blocks, (std::vector<QueryBlocks>{{0, 512, 1, 0, 512}, {512, 512, 15, 1, 1023}}));
  EXPECT_FALSE(first.sums_in_f32);
  // Later slices: all alike, and a rest.
  EXPECT_EQ(Plan({1, 16, 1100, 64}, 1611, 512).blocks,
            (std::vector<QueryBlocks>{{0, 512, 2, 0, 1023}, {1024, 76, 1, 1024, 587}}));
  // In any order cuDNN skips what a window hides, if there are as many keys as queries.
  EXPECT_EQ(Plan({8, 16, 4096, 64}, 4096, 512, false).blocks,
            (std::vector<QueryBlocks>{{0, 4096, 1, 0, 4096}}));
  EXPECT_EQ(Plan({1, 16, 1024, 64}, 1535, 512, false).blocks,
            (std::vector<QueryBlocks>{{0, 512, 2, 0, 1023}}));
  // Blocks of which few fit: heads by heads, then fewer blocks.
  const BackwardPlan wide = Plan({1, 16, 16384, 64}, 16384 + 4095, 4096);
  EXPECT_EQ(wide.heads, 8);
  EXPECT_EQ(wide.blocks, (std::vector<QueryBlocks>{{0, 4096, 4, 0, 8191}}));
  const BackwardPlan wider = Plan({1, 16, 65536, 64}, 65536 + 16383, 16384);
  EXPECT_EQ(wider.heads, 1);
  ASSERT_EQ(wider.blocks.size(), 2u);
  EXPECT_EQ(wider.blocks[1], (QueryBlocks{32768, 16384, 2, 32768, 32767}));
}

TEST(BackwardPlan, LeavesAWindowWholeWhereACutDoesNotPay) {
  // A few times the window, as many keys as queries.
  const BackwardPlan few = Plan({8, 16, 4096, 64}, 4096, 2048);
  EXPECT_EQ(few.sequences, 4);
  EXPECT_EQ(few.blocks, (std::vector<QueryBlocks>{{0, 4096, 1, 0, 4096}}));
  EXPECT_EQ(Plan({8, 16, 4096, 64}, 4096, 512).blocks, few.blocks);
  // Older keys make cuDNN compute everything: cut sooner.
  EXPECT_EQ(Plan({1, 16, 4096, 64}, 4096 + 2047, 2048).blocks,
            (std::vector<QueryBlocks>{{0, 2048, 2, 0, 4095}}));
  EXPECT_EQ(Plan({1, 16, 600, 64}, 600 + 511, 512).blocks,
            (std::vector<QueryBlocks>{{0, 600, 1, 0, 1111}}));
  // Whole, and still within the limit: a head's queries in pieces.
  const BackwardPlan large = Plan({1, 32, 65536, 64}, 65536, 60000);
  EXPECT_EQ(large.heads, 1);
  EXPECT_GT(large.blocks.size(), 1u);
  EXPECT_TRUE(large.sums_in_f32);
}

}  // namespace
}  // namespace mnemo::cuda
