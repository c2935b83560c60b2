#include "src/core/random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "src/core/philox.h"

namespace mnemo {
namespace {

// The published vectors of Philox4x32-10.
TEST(Philox, KnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              testing::ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  uint32_t ones = 0xffffffff;
  EXPECT_THAT(Philox4x32({ones, ones, ones, ones}, {ones, ones}),
              testing::ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      testing::ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

// Checkpoints and runs rely on these numbers staying what they are.
TEST(RandomStream, IsFrozen) {
  RandomStream stream(1, 2, "init/layers.0.wq");
  EXPECT_EQ(stream.Bits(0), uint64_t{0xc80dfa084fdb53e4});
  EXPECT_EQ(stream.Bits(uint64_t{1} << 40), uint64_t{0x1c74783c77b9cffd});
}

TEST(RandomStream, EveryPartOfTheNameCounts) {
  std::set<uint64_t> seen;
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
    for (uint64_t step : {0, 1}) {
      for (const char* what : {"", "a", "b"}) {
        for (uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
          seen.insert(RandomStream(seed, step, what).Bits(index));
        }
      }
    }
  }
  EXPECT_EQ(seen.size(), 3u * 2 * 3 * 3);
}

// Sample moments are within five standard errors; the stream is fixed, so this never flickers.
TEST(RandomStream, Moments) {
  RandomStream stream(5, 0, "moments");
  int n = 200000;
  double mean = 0, square = 0, normal = 0, normal2 = 0, normal4 = 0, lag = 0;
  for (int i = 0; i < n; ++i) {
    double u = stream.Uniform(i), z = stream.Normal(i);
    ASSERT_TRUE(u >= 0 && u < 1);
    ASSERT_TRUE(std::isfinite(z));
    mean += u / n;
    square += u * u / n;
    normal += z / n;
    normal2 += z * z / n;
    normal4 += z * z * z * z / n;
    lag += z * stream.Normal(i + 1) / n;
  }
  double error = 5 / std::sqrt(n);
  EXPECT_NEAR(mean, 0.5, error * std::sqrt(1.0 / 12));
  EXPECT_NEAR(square, 1.0 / 3, error * std::sqrt(4.0 / 45));
  EXPECT_NEAR(normal, 0, error);
  EXPECT_NEAR(normal2, 1, error * std::sqrt(2));
  EXPECT_NEAR(normal4, 3, error * std::sqrt(96));
  EXPECT_NEAR(lag, 0, error);
}

TEST(RandomStream, BelowIsEven) {
  RandomStream stream(5, 0, "below");
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts[stream.Below(i, 7)];
  for (int count : counts) EXPECT_NEAR(count, 10000, 5 * std::sqrt(10000.0 * 6 / 7));
  EXPECT_EQ(stream.Below(3, 1), 0u);
  uint64_t huge = ~uint64_t{0}, largest = 0;
  for (int i = 0; i < 100; ++i) largest = std::max(largest, stream.Below(i, huge));
  EXPECT_GT(largest, huge / 2);
}

TEST(RandomPermutation, HitsEveryPlaceOnce) {
  for (uint64_t size : {1, 2, 3, 4, 5, 16, 17, 1000, 65536, 70001}) {
    RandomPermutation permutation(RandomStream(9, 0, "shuffle"), size);
    std::vector<bool> seen(size);
    for (uint64_t i = 0; i < size; ++i) {
      uint64_t to = permutation(i);
      ASSERT_LT(to, size);
      ASSERT_FALSE(seen[to]);
      seen[to] = true;
    }
  }
}

TEST(RandomPermutation, MixesAndDependsOnTheStream) {
  uint64_t size = 10000, fixed = 0, same = 0, near = 0;
  RandomPermutation a(RandomStream(9, 0, "shuffle"), size), b(RandomStream(9, 1, "shuffle"), size);
  for (uint64_t i = 0; i + 1 < size; ++i) {
    fixed += a(i) == i;
    same += a(i) == b(i);
    near += std::llabs(static_cast<int64_t>(a(i) - a(i + 1))) < 100;
  }
  EXPECT_LT(fixed, 10u);  // one is expected
  EXPECT_LT(same, 10u);
  EXPECT_NEAR(near, 2.0 * 99 * 1, 5 * std::sqrt(198.0));  // two neighbours in a hundred
  uint64_t huge = uint64_t{1} << 62;
  RandomPermutation c(RandomStream(9, 0, "huge"), huge);
  EXPECT_LT(c(huge - 1), huge);
  EXPECT_NE(c(0), c(1));
}

}  // namespace
}  // namespace mnemo
