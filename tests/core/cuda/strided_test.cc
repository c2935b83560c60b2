// Dims and Walk against plain indexing: the same pairs of offsets, whatever is merged and
// reordered.
#include "src/core/cuda/strided.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <vector>

namespace mnemo::cuda {
namespace {

using Offsets = std::array<int64_t, 3>;

// Three views of one shape, each with its dims in an order of its own, with gaps and repeats.
struct Views {
  View view[3];

  Views(std::mt19937* random, int rank) {
    auto below = [&](int n) { return static_cast<int>((*random)() % n); };
    for (int axis = 0; axis < rank; ++axis) {
      const int64_t size = below(3) == 0 ? 1 : 1 + below(5);
      for (View& v : view) v.shape[axis] = size;
    }
    for (int k = 0; k < 3; ++k) {
      view[k].rank = rank;
      std::vector<int> order(rank);
      for (int i = 0; i < rank; ++i) order[i] = rank - 1 - i;
      if (below(2) == 0) std::shuffle(order.begin(), order.end(), *random);
      int64_t stride = 1;
      for (int axis : order) {
        if (k > 0 && below(4) == 0) continue;  // repeats
        view[k].strides[axis] = stride;
        stride *= view[k].shape[axis] + (below(4) == 0 ? 2 : 0);
      }
    }
  }

  std::vector<Offsets> Plain(int skip = -1) const {
    std::vector<Offsets> all;
    for (int64_t i = 0; i < view[0].elements(); ++i) {
      Offsets offsets{};
      bool skipped = false;
      for (int64_t rest = i, axis = view[0].rank; axis-- > 0; rest /= view[0].shape[axis]) {
        const int64_t at = rest % view[0].shape[axis];
        skipped = skipped || (axis == skip && at > 0);
        for (int k = 0; k < 3; ++k) offsets[k] += at * view[k].strides[axis];
      }
      if (!skipped) all.push_back(offsets);
    }
    std::sort(all.begin(), all.end());
    return all;
  }

  Dims<3> Arranged(int skip = -1) const {
    const View* const views[] = {&view[0], &view[1], &view[2]};
    return DimsOf(views, skip);
  }
};

std::vector<Offsets> Walked(const Walk<3>& walk, const int64_t (&start)[3]) {
  std::vector<Offsets> all;
  for (int64_t i = 0; i < walk.count; ++i) {
    int64_t at[3];
    walk.Offsets(i, at);
    all.push_back({start[0] + at[0], start[1] + at[1], start[2] + at[2]});
  }
  return all;
}

TEST(Strided, WalksOverEveryElementOnce) {
  std::mt19937 random(5);
  const int64_t zero[3] = {};
  for (int i = 0; i < 2000; ++i) {
    const int rank = static_cast<int>(random() % 6);
    const Views views(&random, rank);
    const int skip = rank == 0 ? -1 : static_cast<int>(random() % (rank + 1)) - 1;
    Walk<3> walk(views.Arranged(skip));
    std::vector<Offsets> got = Walked(walk, zero);
    std::sort(got.begin(), got.end());
    ASSERT_EQ(got, views.Plain(skip)) << "case " << i;
    walk.narrow = false;  // with plain divisions
    std::vector<Offsets> wide = Walked(walk, zero);
    std::sort(wide.begin(), wide.end());
    ASSERT_EQ(wide, got) << "case " << i;
  }
}

TEST(Strided, PartsAreTheWhole) {
  std::mt19937 random(6);
  const int64_t start[3] = {7, 0, -3};
  for (int i = 0; i < 500; ++i) {
    const Views views(&random, 4);
    const int64_t limit = 1 + static_cast<int64_t>(random() % 20);
    std::vector<Offsets> got;
    ForEachPart(views.Arranged(), limit, start,
                [&](const Dims<3>& part, const int64_t(&offsets)[3]) {
                  EXPECT_LE(part.count(), limit);
                  for (const Offsets& at : Walked(Walk<3>(part), offsets)) got.push_back(at);
                });
    for (Offsets& at : got) {
      for (int k = 0; k < 3; ++k) at[k] -= start[k];
    }
    std::sort(got.begin(), got.end());
    ASSERT_EQ(got, views.Plain());
  }
}

View Matrix(int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
  View view;
  view.rank = 2;
  view.shape[0] = rows;
  view.shape[1] = columns;
  view.strides[0] = row_stride;
  view.strides[1] = column_stride;
  return view;
}

TEST(Strided, MergesWhatIsDenseInEveryOperand) {
  const View dense = Matrix(6, 10, 10, 1), other = Matrix(6, 10, 10, 1);
  const View* const same[] = {&dense, &other};
  EXPECT_EQ(DimsOf(same).rank, 1);
  EXPECT_EQ(DimsOf(same).sizes[0], 60);
  const View turned = Matrix(6, 10, 1, 6), turned2 = Matrix(6, 10, 1, 6);
  const View* const both[] = {&turned, &turned2};
  EXPECT_EQ(DimsOf(both).rank, 1);  // in the output's order
  const View row = Matrix(6, 10, 0, 1);
  const View* const repeated[] = {&dense, &row};
  EXPECT_EQ(DimsOf(repeated).rank, 2);
  const View one = Matrix(6, 10, 0, 0);
  const View* const scalar[] = {&dense, &one};
  EXPECT_EQ(DimsOf(scalar).rank, 1);
  EXPECT_EQ(DimsOf(scalar).inner(1), 0);
}

TEST(Strided, PacksNeedAlignmentEverywhere) {
  alignas(16) const float data[8] = {};
  auto packs = [&](int64_t row_stride, int64_t column_stride, const float* start) {
    const View view = Matrix(3, 8, row_stride, column_stride);
    const View* const views[] = {&view};
    return Packs(DimsOf(views), 0, start, sizeof(float), 4);
  };
  EXPECT_TRUE(packs(8, 1, data));
  EXPECT_TRUE(packs(12, 1, data));
  EXPECT_FALSE(packs(8, 1, data + 1));
  EXPECT_FALSE(packs(9, 1, data));
  EXPECT_FALSE(packs(16, 2, data));
}

TEST(Strided, DivisionIsExact) {
  std::mt19937 random(7);
  std::vector<uint32_t> divisors = {1,
                                    2,
                                    3,
                                    5,
                                    7,
                                    641,
                                    65535,
                                    65536,
                                    65537,
                                    1u << 30,
                                    (1u << 30) + 1,
                                    (1u << 31) - 2,
                                    (1u << 31) - 1};
  for (int i = 0; i < 2000; ++i) divisors.push_back(1 + (random() >> (1 + random() % 31)));
  for (uint32_t d : divisors) {
    const Divisor divisor(d);
    std::vector<uint32_t> numbers = {0, 1, d - 1, d, (1u << 31) - 1, (1u << 31) - 2};
    for (int i = 0; i < 50; ++i) {
      const uint32_t n = random() >> 1, multiple = n / d * d;
      numbers.insert(numbers.end(), {n, multiple});
      if (multiple > 0) numbers.push_back(multiple - 1);
    }
    for (uint32_t n : numbers) ASSERT_EQ(divisor.Quotient(n), n / d) << n << " / " << d;
  }
}

TEST(Strided, CountsBeyond31BitsAreWide) {
  Dims<1> dims;
  dims.Add(int64_t{1} << 20, {1});
  dims.Add(int64_t{1} << 13, {int64_t{1} << 21});
  const Walk<1> walk(dims);
  EXPECT_FALSE(walk.narrow);
  int64_t at[1];
  walk.Offsets((int64_t{1} << 33) - 1, at);
  EXPECT_EQ(at[0], (int64_t{1} << 20) - 1 + ((int64_t{1} << 13) - 1) * (int64_t{1} << 21));
}

}  // namespace
}  // namespace mnemo::cuda
