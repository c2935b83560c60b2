#include "src/ckpt/box.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace mnemo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Every index of a box, in row-major order.
std::vector<Shape> Indices(const Box& box) {
  std::vector<Shape> indices = {{}};
  for (size_t d = 0; d < box.shape.size(); ++d) {
    std::vector<Shape> longer;
    for (const Shape& index : indices) {
      for (int64_t i = 0; i < box.shape[d]; ++i) {
        longer.push_back(index);
        longer.back().push_back(box.begin[d] + i);
      }
    }
    indices = longer;
  }
  return indices;
}

TEST(BoxTest, LiesInItsTensorOnlyIfEveryDimDoes) {
  EXPECT_TRUE(LiesIn({{0, 2}, {4, 1}}, {4, 3}));
  EXPECT_TRUE(LiesIn({{}, {}}, {}));
  EXPECT_TRUE(LiesIn({{4}, {0}}, {4}));
  EXPECT_FALSE(LiesIn({{0, 3}, {4, 1}}, {4, 3}));
  EXPECT_FALSE(LiesIn({{-1}, {1}}, {4}));
  EXPECT_FALSE(LiesIn({{2}, {-1}}, {4}));
  EXPECT_FALSE(LiesIn({{0}, {4}}, {4, 3}));
  EXPECT_FALSE(LiesIn({{0, 0}, {4}}, {4}));
  EXPECT_FALSE(LiesIn({{INT64_MAX}, {INT64_MAX}}, {4}));
}

TEST(BoxTest, RunsFollowEachOtherAndKeepTheLimit) {
  const Box box{{1, 0, 2}, {3, 4, 5}};
  for (int64_t limit : {1, 2, 4, 5, 7, 11, 20, 39, 60, 1000}) {
    std::vector<Shape> joined;
    for (const Box& run : CutIntoRuns(box, limit)) {
      EXPECT_LE(ElementCount(run), limit);
      EXPECT_TRUE(IsContiguousIn(run, box)) << ToString(run);
      for (const Shape& index : Indices(run)) joined.push_back(index);
    }
    EXPECT_EQ(joined, Indices(box)) << limit;
  }
  EXPECT_EQ(CutIntoRuns({{}, {}}, 1).size(), 1u);
  EXPECT_TRUE(CutIntoRuns({{0, 0}, {3, 0}}, 1).empty());
}

TEST(BoxTest, ContiguityIsThatOfTheOffsets) {
  const Box whole{{1, 1, 1}, {2, 3, 4}};
  for (const Shape& begin : Indices(whole)) {
    for (const Shape& last : Indices(whole)) {
      Box part{begin, {}};
      for (int d = 0; d < 3; ++d) part.shape.push_back(last[d] - begin[d] + 1);
      if (!LiesIn(part, {3, 4, 5}) || ElementCount(part) <= 0 || !Intersect(part, whole)) continue;
      const std::vector<Shape> indices = Indices(part);
      bool run = true;
      for (size_t i = 0; i < indices.size(); ++i) {
        run &= OffsetIn(whole, indices[i]) == OffsetIn(whole, indices[0]) + static_cast<int64_t>(i);
      }
      EXPECT_EQ(IsContiguousIn(part, whole), run) << ToString(part);
    }
  }
}

TEST(BoxTest, CopiesExactlyWhatIsShared) {
  const Box from{{1, 0, 2}, {3, 4, 5}}, to{{0, 1, 3}, {3, 5, 3}};
  std::vector<int32_t> source(ElementCount(from)), target(ElementCount(to), -1);
  std::iota(source.begin(), source.end(), 0);
  CopyShared(from, reinterpret_cast<const char*>(source.data()), to,
             reinterpret_cast<char*>(target.data()), sizeof(int32_t));
  for (const Shape& at : Indices(to)) {
    const bool shared = Intersect(from, {at, {1, 1, 1}}).has_value();
    EXPECT_EQ(target[OffsetIn(to, at)], shared ? source[OffsetIn(from, at)] : -1);
  }
  const int32_t one = 7;
  int32_t other = 0;
  CopyShared({{}, {}}, reinterpret_cast<const char*>(&one), {{}, {}},
             reinterpret_cast<char*>(&other), sizeof(one));
  EXPECT_EQ(other, 7);
}

TEST(BoxTest, CoverNamesOverlapsAndGaps) {
  const auto cover = [](std::vector<Box> boxes, const Shape& whole) {
    return std::string(CheckCover(boxes, whole).message());
  };
  EXPECT_EQ(cover({{{0, 0}, {4, 1}}, {{2, 1}, {2, 2}}, {{0, 1}, {2, 2}}}, {4, 3}), "");
  EXPECT_EQ(cover({{{}, {}}}, {}), "");
  EXPECT_EQ(cover({}, {3, 0}), "");
  EXPECT_THAT(cover({{{0, 0}, {4, 2}}, {{3, 1}, {1, 2}}}, {4, 3}),
              HasSubstr("[0, 4) x [0, 2) and [3, 4) x [1, 3) overlap"));
  EXPECT_THAT(cover({{{}, {}}, {{}, {}}}, {}), HasSubstr("overlap"));
  EXPECT_THAT(cover({{{0, 0}, {4, 1}}, {{0, 1}, {2, 2}}}, {4, 3}),
              HasSubstr("no piece holds 4 of its 12 elements"));
  EXPECT_THAT(cover({}, {}), HasSubstr("no piece holds 1 of its 1 elements"));
}

}  // namespace
}  // namespace mnemo
