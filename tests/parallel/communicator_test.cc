// What every communicator promises. Values are never zero, never the same on two ranks, and sums of
// them depend on the order of summation.
#include "src/parallel/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <thread>

#include "tests/parallel/rank_worlds.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

// Of either sign and of magnitudes from 1e-3 to 1e3, so that another order of summation gives other
// bits; the same for the same place.
Tensor Values(int rank, int64_t count, DType dtype) {
  static constexpr double kScales[] = {1e-3, 1e-2, 0.1, 1, 10, 100, 1e3, 0.5};
  std::vector<double> values(count);
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t bits = static_cast<uint64_t>(i * 5 + rank + 1) * 0x9e3779b97f4a7c15u;
    values[i] = (static_cast<double>(bits >> 11) * 0x1p-52 - 1.0001) * kScales[bits & 7];
  }
  return Tensor::FromHost(values, {count}, dtype);
}

template <typename T>
std::vector<T> SumInRankOrder(int ranks, int64_t count, DType dtype) {
  const Tensor first = Values(0, count, dtype);
  std::vector<T> sum(first.data<T>(), first.data<T>() + count);
  for (int rank = 1; rank < ranks; ++rank) {
    const Tensor values = Values(rank, count, dtype);
    for (int64_t i = 0; i < count; ++i) sum[i] += values.data<T>()[i];
  }
  return sum;
}

template <typename T>
void ExpectBits(const Tensor& tensor, std::span<const T> expected) {
  ASSERT_EQ(tensor.elements(), static_cast<int64_t>(expected.size()));
  EXPECT_EQ(0, expected.empty() ? 0 : std::memcmp(tensor.raw(), expected.data(), tensor.bytes()));
}

// A few elements, around the border between one and two exchanges, and several blocks.
const int64_t kCounts[] = {0, 1, 2, 7, 2048, 2049, 4097, 20011, 200003};

template <typename T>
void CheckAllReduce(DType dtype) {
  ForEachWorld([&](Transport& t) {
    const auto all = MakeWorld(t);
    ASSERT_EQ(all->size(), t.size());
    ASSERT_EQ(all->rank(), t.rank());
    for (const int64_t count : kCounts) {
      const Tensor tensor = Values(t.rank(), count, dtype);
      ASSERT_OK(all->AllReduceSum(tensor));
      ExpectBits<T>(tensor, SumInRankOrder<T>(t.size(), count, dtype));
    }
  });
}

TEST(CommunicatorTest, AllReduceSumsF32InRankOrder) { CheckAllReduce<float>(DType::kF32); }
TEST(CommunicatorTest, AllReduceSumsF64InRankOrder) { CheckAllReduce<double>(DType::kF64); }

TEST(CommunicatorTest, AllReduceOfHostScalars) {
  ForEachWorld([](Transport& t) {
    const auto all = MakeWorld(t);
    const Tensor mine = Values(t.rank(), 3, DType::kF64);
    std::vector<double> values(mine.data<double>(), mine.data<double>() + 3);
    ASSERT_OK(all->AllReduceSum(values));
    EXPECT_EQ(values, SumInRankOrder<double>(t.size(), 3, DType::kF64));
  });
}

TEST(CommunicatorTest, SumsCarryInfinitiesAndNan) {
  ForEachWorld([](Transport& t) {
    const auto all = MakeWorld(t);
    std::vector<double> values{t.rank() == 0 ? INFINITY : 1.0,
                               t.rank() == t.size() - 1 ? NAN : 1.0};
    ASSERT_OK(all->AllReduceSum(values));
    EXPECT_EQ(values[0], INFINITY);
    EXPECT_TRUE(std::isnan(values[1]));
  });
}

// Uneven pieces, one of them empty where there are three ranks or more.
std::vector<int64_t> UnevenPieces(int ranks, int64_t unit) {
  std::vector<int64_t> pieces;
  for (int rank = 0; rank < ranks; ++rank)
    pieces.push_back(rank == 1 && ranks > 2 ? 0 : unit + rank);
  return pieces;
}

TEST(CommunicatorTest, ReduceScatterGivesEachRankItsPieceOfTheSum) {
  ForEachWorld([](Transport& t) {
    const auto all = MakeWorld(t);
    for (const int64_t unit : {int64_t{1}, int64_t{50}, int64_t{70001}}) {
      const std::vector<int64_t> pieces = UnevenPieces(t.size(), unit);
      const int64_t count = std::accumulate(pieces.begin(), pieces.end(), int64_t{0});
      const int64_t begin = std::accumulate(pieces.begin(), pieces.begin() + t.rank(), int64_t{0});
      const Tensor input = Values(t.rank(), count, DType::kF32);
      const Tensor mine = Tensor::Empty({pieces[t.rank()]}, DType::kF32);
      ASSERT_OK(all->ReduceScatterSum(input, mine, pieces));
      const std::vector<float> sum = SumInRankOrder<float>(t.size(), count, DType::kF32);
      const std::span<const float> expected = std::span(sum).subspan(begin, pieces[t.rank()]);
      ExpectBits<float>(mine, expected);
      const Tensor before = Values(t.rank(), count, DType::kF32);
      ExpectBits<float>(input, {before.data<float>(), static_cast<size_t>(count)});
      // In place: only the own piece changes.
      ASSERT_OK(
          all->ReduceScatterSum(input, input.Slice(0, begin, begin + pieces[t.rank()]), pieces));
      std::vector<float> whole(before.data<float>(), before.data<float>() + count);
      std::copy(expected.begin(), expected.end(), whole.begin() + begin);
      ExpectBits<float>(input, whole);
    }
  });
}

TEST(CommunicatorTest, AllGatherPutsPiecesInRankOrder) {
  ForEachWorld([](Transport& t) {
    const auto all = MakeWorld(t);
    for (const int64_t unit : {1, 1000, 70000}) {
      const std::vector<int64_t> pieces = UnevenPieces(t.size(), unit);
      std::vector<float> expected;
      for (int rank = 0; rank < t.size(); ++rank) {
        const Tensor piece = Values(rank, pieces[rank], DType::kF32);
        expected.insert(expected.end(), piece.data<float>(), piece.data<float>() + pieces[rank]);
      }
      const int64_t count = static_cast<int64_t>(expected.size());
      const Tensor mine = Values(t.rank(), pieces[t.rank()], DType::kF32);
      const Tensor gathered = Tensor::Full({count}, -1, DType::kF32);
      ASSERT_OK(all->AllGather(mine, gathered, pieces));
      ExpectBits<float>(gathered, expected);
      // In place.
      const int64_t begin = std::accumulate(pieces.begin(), pieces.begin() + t.rank(), int64_t{0});
      const Tensor whole = Tensor::Full({count}, -1, DType::kF32);
      const Tensor own = whole.Slice(0, begin, begin + pieces[t.rank()]);
      std::copy_n(mine.data<float>(), pieces[t.rank()], own.data<float>());
      ASSERT_OK(all->AllGather(own, whole, pieces));
      ExpectBits<float>(whole, expected);
    }
  });
}

TEST(CommunicatorTest, GathersOtherTypes) {
  ForEachWorld([](Transport& t) {
    const auto all = MakeWorld(t);
    const std::vector<int32_t> value{100 + t.rank()};
    const Tensor gathered = Tensor::Empty({t.size()}, DType::kI32);
    const std::vector<int64_t> pieces(t.size(), 1);
    ASSERT_OK(all->AllGather(Tensor::FromHost(std::span(value), {1}), gathered, pieces));
    for (int rank = 0; rank < t.size(); ++rank) EXPECT_EQ(gathered.ToInts()[rank], 100 + rank);
  });
}

TEST(CommunicatorTest, BroadcastsFromEveryRoot) {
  ForEachWorld([](Transport& t) {
    const auto all = MakeWorld(t);
    for (int root = 0; root < t.size(); ++root) {
      for (const int64_t count : {1, 30000}) {
        const Tensor tensor = Values(t.rank(), count, DType::kF64);
        ASSERT_OK(all->Broadcast(root, tensor));
        const Tensor expected = Values(root, count, DType::kF64);
        ExpectBits<double>(tensor, {expected.data<double>(), static_cast<size_t>(count)});
      }
    }
    EXPECT_TRUE(absl::IsInvalidArgument(all->Broadcast(t.size(), Tensor::Zeros({1}, DType::kF32))));
  });
}

TEST(CommunicatorTest, GathersStringsOfAnyLength) {
  ForEachWorld([](Transport& t) {
    const auto all = MakeWorld(t);
    const auto text = [](int rank) {
      return std::string(rank * rank * 3000, static_cast<char>('a' + rank));
    };
    const auto strings = all->AllGatherStrings(text(t.rank()));
    ASSERT_TRUE(strings.ok()) << strings.status().message();
    ASSERT_EQ(strings->size(), static_cast<size_t>(t.size()));
    for (int rank = 0; rank < t.size(); ++rank) EXPECT_EQ((*strings)[rank], text(rank));
  });
}

// Each in turn works for longer than the timeout, the last one while the others do, too.
TEST(CommunicatorTest, WorkIsWaitedForBeyondTheTimeout) {
  ForEachWorld([](Transport& t) {
    if (t.size() != 3) return;
    const auto all = MakeHostCommunicator(t, {{0, 1, 2}, {4, "work"}, std::chrono::seconds(1)});
    const auto works = [&](int rank, int turn) { return rank == turn || turn == 2; };
    for (int turn = 0; turn < 3; ++turn) {
      const auto results = all->AllGatherWork([&] {
        if (works(t.rank(), turn)) std::this_thread::sleep_for(std::chrono::milliseconds(2500));
        return std::string(t.rank() * 3000, 'x') + std::to_string(turn);
      });
      ASSERT_TRUE(results.ok()) << results.status().message();
      for (int rank = 0; rank < 3; ++rank) {
        EXPECT_EQ((*results)[rank], std::string(rank * 3000, 'x') + std::to_string(turn));
      }
    }
  });
}

// Whoever comes last releases all: nobody's count of arrivals is behind.
TEST(CommunicatorTest, BarrierHoldsUntilAllHaveCome) {
  ForEachWorld([](Transport& t) {
    const auto all = MakeWorld(t);
    for (int late = 0; late < t.size(); ++late) {
      const auto begin = std::chrono::steady_clock::now();
      ASSERT_OK(all->Barrier());
      if (t.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      ASSERT_OK(all->Barrier());
      const auto waited = std::chrono::steady_clock::now() - begin;
      EXPECT_GE(waited, std::chrono::milliseconds(t.size() > 1 ? 20 : 0));
    }
  });
}

// Two groups on channels of their own, one the reverse of the other, used in turns.
TEST(CommunicatorTest, CommunicatorsDoNotMix) {
  ForEachWorld([](Transport& t) {
    const auto all = MakeWorld(t, 1);
    CommunicatorOptions options;
    for (int rank = t.size() - 1; rank >= 0; --rank) options.ranks.push_back(rank);
    options.channel = {2, "reversed"};
    options.timeout = kPatience;
    const auto reversed = MakeHostCommunicator(t, options);
    EXPECT_EQ(reversed->rank(), t.size() - 1 - t.rank());
    for (int i = 0; i < 5; ++i) {
      std::vector<double> a{1.0 + t.rank() + i}, b{10.0 * (1 + t.rank())};
      ASSERT_OK(all->AllReduceSum(a));
      ASSERT_OK(reversed->AllReduceSum(b));
      const double triangle = t.size() * (t.size() + 1) / 2.0;
      EXPECT_EQ(a[0], triangle + i * t.size());
      EXPECT_EQ(b[0], 10 * triangle);
    }
  });
}

// Groups of some of the ranks, side by side, on one channel.
TEST(CommunicatorTest, GroupsSideBySide) {
  ForEachWorld(
      [](Transport& t) {
        CommunicatorOptions options;
        for (int rank = t.rank() % 2; rank < t.size(); rank += 2) options.ranks.push_back(rank);
        options.channel = {3, "parity"};
        options.timeout = kPatience;
        const auto group = MakeHostCommunicator(t, options);
        double expected = 0;
        for (const int rank : options.ranks) expected += 1 + rank;
        std::vector<double> value{1.0 + t.rank()};
        ASSERT_OK(group->AllReduceSum(value));
        EXPECT_EQ(value[0], expected);
      },
      2);
}

TEST(CommunicatorTest, RefusesWhatItCannotDo) {
  ForEachWorld([](Transport& t) {
    const auto all = MakeWorld(t);
    const auto message = [](const absl::Status& status) {
      EXPECT_TRUE(absl::IsInvalidArgument(status));
      return std::string(status.message());
    };
    EXPECT_THAT(message(all->AllReduceSum(Tensor::Zeros({2}, DType::kBF16))),
                HasSubstr("sums f32 and f64"));
    const Tensor square = Tensor::Zeros({3, 3}, DType::kF32);
    EXPECT_THAT(message(all->AllReduceSum(square.Transpose())), HasSubstr("contiguous"));
    const std::vector<int64_t> pieces(t.size(), 2);
    EXPECT_THAT(message(all->AllGather(square, square, pieces)), HasSubstr("9 f32 elements"));
  });
}

TEST(CommunicatorTest, EvenPiecesDifferByOne) {
  EXPECT_EQ(EvenPieces(11, 4), (std::vector<int64_t>{3, 3, 3, 2}));
  EXPECT_EQ(EvenPieces(2, 3), (std::vector<int64_t>{1, 1, 0}));
}

}  // namespace
}  // namespace mnemo
