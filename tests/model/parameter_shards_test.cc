#include "src/model/parameter_shards.h"

#include <gtest/gtest.h>

#include "src/core/backend.h"
#include "tests/model/tiny_model.h"

namespace mnemo {
namespace {

ParameterSet Set(std::vector<Shape> shapes) {
  std::vector<ParameterInfo> infos;
  for (const Shape& shape : shapes) infos.push_back({fmt::format("p{}", infos.size()), shape});
  return ParameterSet(std::move(infos), DType::kF64, {});
}

// Every element belongs to one shard, in order, and the flat ranges hold the rows.
void ExpectCovers(const ParameterSet& set, const std::vector<ParameterShard>& shards) {
  for (const Tensor& value : set.values()) {
    Backend::For({}).Fill(value, 0);
  }
  int64_t flat = 0;
  for (const ParameterShard& shard : shards) {
    EXPECT_EQ(shard.flat_begin, flat);
    flat = shard.flat_end;
    for (const ParameterRows& rows : shard.rows) {
      const Tensor view = RowsOf(set, rows);
      EXPECT_GE(static_cast<const double*>(view.raw()),
                set.flat().data<double>() + shard.flat_begin);
      EXPECT_LE(static_cast<const double*>(view.raw()) + view.elements(),
                set.flat().data<double>() + shard.flat_end);
      Backend::For({}).Binary(BinaryOp::kAdd, view, Tensor::Full(view.shape(), 1, DType::kF64),
                              view);
    }
  }
  EXPECT_EQ(flat, set.flat().elements());
  for (const Tensor& value : set.values()) {
    for (double x : value.ToDoubles()) ASSERT_EQ(x, 1);
  }
}

TEST(ParameterShardsTest, CoverEverythingOnce) {
  const ParameterSet set = Set({{7, 5}, {3}, {1}, {4, 2, 9}, {2, 100}});
  for (int ranks = 1; ranks <= 12; ++ranks) {
    SCOPED_TRACE(ranks);
    const std::vector<ParameterShard> shards = CutParameters(set, ranks);
    ASSERT_EQ(shards.size(), ranks);
    ExpectCovers(set, shards);
  }
}

TEST(ParameterShardsTest, CoverAModelInEqualParts) {
  const ParameterSet set = ParameterSet::Zeros(testing::TinySpec(BlockKind::kMag), DType::kF64);
  for (int ranks : {1, 2, 3, 8}) {
    const std::vector<ParameterShard> shards = CutParameters(set, ranks);
    ExpectCovers(set, shards);
    int64_t largest_row = 0;
    for (const ParameterInfo& info : set.infos()) {
      largest_row = std::max(largest_row, ElementCount(info.shape) / info.shape[0]);
    }
    for (const ParameterShard& shard : shards) {
      EXPECT_NEAR(static_cast<double>(shard.flat_end - shard.flat_begin),
                  static_cast<double>(set.flat().elements()) / ranks, largest_row + 16);
    }
  }
}

TEST(ParameterShardsTest, OneRankOwnsAll) {
  const ParameterSet set = Set({{2, 3}, {5}});
  const std::vector<ParameterShard> shards = CutParameters(set, 1);
  EXPECT_EQ(shards[0].rows, (std::vector<ParameterRows>{{0, 0, 2}, {1, 0, 5}}));
}

TEST(ParameterShardsTest, MoreRanksThanRowsLeavesSomeEmpty) {
  const ParameterSet set = Set({{1, 64}});
  const std::vector<ParameterShard> shards = CutParameters(set, 3);
  ExpectCovers(set, shards);
  int owners = 0;
  for (const ParameterShard& shard : shards) owners += !shard.rows.empty();
  EXPECT_EQ(owners, 1);
}

}  // namespace
}  // namespace mnemo
