#include "src/parallel/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mnemo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(MeshTest, NumbersTpFastestThenSpThenDp) {
  const Mesh mesh{.dp = 2, .sp = 3, .tp = 4};
  EXPECT_EQ(mesh.size(), 24);
  EXPECT_EQ(mesh.RankOf({0, 0, 1}), 1);
  EXPECT_EQ(mesh.RankOf({0, 1, 0}), 4);
  EXPECT_EQ(mesh.RankOf({1, 0, 0}), 12);
  for (int rank = 0; rank < mesh.size(); ++rank) {
    EXPECT_EQ(mesh.RankOf(mesh.PositionOf(rank)), rank);
  }
}

TEST(MeshTest, GroupsDifferOnOneAxis) {
  const Mesh mesh{.dp = 2, .sp = 3, .tp = 4};
  const int rank = mesh.RankOf({1, 2, 3});
  EXPECT_THAT(mesh.SpGroup(rank), ElementsAre(15, 19, 23));
  EXPECT_THAT(mesh.TpGroup(rank), ElementsAre(20, 21, 22, 23));
  EXPECT_THAT(mesh.DpSpGroup(rank), ElementsAre(3, 7, 11, 15, 19, 23));
}

TEST(MeshTest, PlaceInGroupIsTheCoordinate) {
  const Mesh mesh{.dp = 2, .sp = 3, .tp = 2};
  for (int rank = 0; rank < mesh.size(); ++rank) {
    const MeshPosition at = mesh.PositionOf(rank);
    EXPECT_EQ(mesh.SpGroup(rank)[at.sp], rank);
    EXPECT_EQ(mesh.TpGroup(rank)[at.tp], rank);
    EXPECT_EQ(mesh.DpSpGroup(rank)[at.dp * mesh.sp + at.sp], rank);
  }
}

TEST(MeshTest, RefusesWhatDoesNotFit) {
  EXPECT_TRUE(CheckMesh({2, 2, 1}, 4).ok());
  EXPECT_THAT(std::string(CheckMesh({2, 2, 1}, 5).message()),
              HasSubstr("dp 2 x sp 2 x tp 1 takes 4 ranks, but 5 are running"));
  EXPECT_THAT(std::string(CheckMesh({2, 0, 1}, 0).message()), HasSubstr("at least 1"));
}

}  // namespace
}  // namespace mnemo
