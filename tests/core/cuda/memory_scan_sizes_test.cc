// What is said of the memory scan's kernels without them against what they say of themselves. Needs
// a build with CUDA and no GPU.
#include "src/core/counted/memory_scan_sizes.h"

#include <gtest/gtest.h>

namespace mnemo {
namespace {

TEST(MemoryScanSizes, AreThoseOfTheKernels) {
  int supported = 0;
  for (const int64_t batch : {1, 3, 8}) {
    for (const int64_t heads : {1, 16, 32}) {
      for (const int64_t tokens : {1, 64, 4096, 50000}) {
        for (const int depth : {1, 2, 3}) {
          for (const int chunk : {8, 16, 32, 64}) {
            for (const int bits : {0, 1, 2, 4, 8, 15}) {
              const bool norm = bits != 0;
              MemoryScanShape shape;
              shape.batch = batch;
              shape.heads = heads;
              shape.tokens = tokens;
              shape.depth = depth;
              shape.chunk = chunk;
              shape.norm = norm;
              shape.towards_initial = (bits & 2) != 0;
              shape.clamp = (bits & 4) != 0 ? 3 : 0;
              shape.resets = (bits & 8) != 0;
              SCOPED_TRACE(testing::Message() << batch << " " << heads << " " << tokens << " "
                                              << depth << " " << chunk << " " << bits);
              ASSERT_EQ(counted::MemoryScanSupports(shape), MemoryScanSupports(shape));
              if (!MemoryScanSupports(shape)) continue;
              ++supported;
              EXPECT_EQ(counted::MemoryScanForwardWorkspace(shape),
                        MemoryScanForwardWorkspace(shape));
              EXPECT_EQ(counted::MemoryScanBackwardWorkspace(shape),
                        MemoryScanBackwardWorkspace(shape));
              EXPECT_EQ(counted::MemoryScanCheckpointBytes(shape),
                        MemoryScanCheckpointBytes(shape));
            }
          }
        }
      }
    }
  }
  // Depth 1 without a norm; depth 2 with one, and with options in two of three chunk lengths.
  EXPECT_EQ(supported, 3 * 3 * 4 * (3 + 3 + 4 * 2));
}

}  // namespace
}  // namespace mnemo
