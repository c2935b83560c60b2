// The arena against a plain model of its pieces; blocks come from the host.
#include "src/core/arena.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>

#include "src/core/status.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kGranule = Arena::kGranule;
constexpr int64_t kBlock = 64 * kGranule;

// Host memory, of which only so much can be got.
struct Supply {
  int64_t left = int64_t{1} << 30;
  int64_t got = 0, released = 0;

  Arena::Source source() {
    return {[this](int64_t bytes) -> void* {
              if (bytes > left) return nullptr;
              left -= bytes;
              got += 1;
              return std::aligned_alloc(kGranule, bytes);
            },
            [this](void* block, int64_t bytes) {
              left += bytes;
              released += 1;
              std::free(block);
            }};
  }
};

int64_t Rounded(int64_t bytes) {
  return std::max<int64_t>(1, (bytes + kGranule - 1) / kGranule) * kGranule;
}

// A random sequence of calls. Every piece is filled with a mark of its own, which is still there
// when it is freed: pieces do not overlap. Returns the places.
std::vector<int64_t> RandomCalls(Arena& arena, int calls, uint64_t seed) {
  struct Live {
    Arena::Piece piece;
    int64_t bytes;
    unsigned char mark;
  };
  std::mt19937_64 random(seed);
  std::vector<Live> live;
  std::vector<int64_t> places;
  arena.ResetPeak();
  int64_t current = 0, peak = 0;
  const auto free_one = [&] {
    std::swap(live[random() % live.size()], live.back());
    const Live last = live.back();
    const auto* data = static_cast<const unsigned char*>(last.piece.data);
    EXPECT_EQ(std::count(data, data + last.bytes, last.mark), last.bytes);
    arena.Free(last.piece.place);
    current -= Rounded(last.bytes);
    live.pop_back();
  };
  for (int i = 0; i < calls; ++i) {
    if (!live.empty() && random() % 2 == 0) {
      free_one();
    } else {
      const int64_t bytes = static_cast<int64_t>(random() % (20 * kGranule));
      const Live made{arena.Allocate(bytes), bytes, static_cast<unsigned char>(random())};
      EXPECT_EQ(reinterpret_cast<uintptr_t>(made.piece.data) % kGranule, 0u);
      std::memset(made.piece.data, made.mark, bytes);
      places.push_back(made.piece.place);
      live.push_back(made);
      current += Rounded(bytes);
      peak = std::max(peak, current);
    }
    EXPECT_EQ(arena.use().current_bytes, current);
    EXPECT_EQ(arena.use().peak_bytes, peak);
  }
  while (!live.empty()) free_one();
  return places;
}

TEST(Arena, KeepsPiecesApartAndCountsThem) {
  Supply supply;
  {
    Arena arena("test", supply.source(), 0, kBlock);
    RandomCalls(arena, 4000, 1);
    EXPECT_EQ(arena.use().current_bytes, 0);
    arena.ResetPeak();
    EXPECT_EQ(arena.use().peak_bytes, 0);
  }
  EXPECT_EQ(supply.released, supply.got);
}

TEST(Arena, JoinsToOnePieceInTheEnd) {
  Supply supply;
  Arena arena("test", supply.source(), 0, kBlock);
  arena.Reserve(4096 * kGranule);
  RandomCalls(arena, 4000, 2);
  EXPECT_EQ(supply.got, 1);
  EXPECT_EQ(arena.largest_free_bytes(), 4096 * kGranule);
  EXPECT_EQ(arena.Allocate(4096 * kGranule).place, 0);
}

TEST(Arena, GivesTheSamePlacesToTheSameCalls) {
  Supply supply;
  Arena first("test", supply.source(), 0, kBlock), second("test", supply.source(), 0, kBlock);
  EXPECT_EQ(RandomCalls(first, 2000, 3), RandomCalls(second, 2000, 3));
}

TEST(Arena, TakesTheSmallestFreePieceThatFits) {
  Supply supply;
  Arena arena("test", supply.source(), 0, kBlock);
  std::vector<Arena::Piece> pieces;
  for (const int64_t granules : {8, 1, 4, 1, 4, 1, 6, 1}) {
    pieces.push_back(arena.Allocate(granules * kGranule));
  }
  for (const int i : {6, 4, 0, 2}) arena.Free(pieces[i].place);
  EXPECT_EQ(arena.Allocate(3 * kGranule).place, pieces[2].place);  // the first of the two fours
  EXPECT_EQ(arena.Allocate(5 * kGranule).place, pieces[6].place);
  EXPECT_EQ(arena.Allocate(4 * kGranule).place, pieces[4].place);
  EXPECT_EQ(arena.Allocate(1).place, pieces[2].place + 3 * kGranule);
}

// What a step frees and takes again fits into the same memory, whatever the order.
TEST(Arena, DoesNotGrowWhenAStepIsRepeated) {
  Supply supply;
  Arena arena("test", supply.source(), 0, kBlock);
  RandomCalls(arena, 1000, 4);
  const int64_t held = arena.held_bytes();
  for (int i = 0; i < 20; ++i) RandomCalls(arena, 1000, 4);
  EXPECT_EQ(arena.held_bytes(), held);
}

TEST(Arena, GrowsByAsMuchAsItHolds) {
  Supply supply;
  Arena arena("test", supply.source(), 0, kBlock);
  for (int i = 0; i < 100; ++i) arena.Allocate(kBlock / 2);
  EXPECT_EQ(supply.got, 7);  // 1, 1, 2, 4, .. 32 blocks
  arena.Allocate(1000 * kBlock);
  EXPECT_EQ(supply.got, 8);
}

TEST(Arena, TakesNoPieceFromTwoBlocks) {
  Supply supply;
  Arena arena("test", supply.source(), 0, kBlock);
  std::vector<Arena::Piece> pieces;
  for (int i = 0; i < 2; ++i) pieces.push_back(arena.Allocate(kBlock));
  for (const Arena::Piece& piece : pieces) arena.Free(piece.place);
  EXPECT_EQ(arena.largest_free_bytes(), kBlock);
}

TEST(Arena, TakesLessWhereTheSourceHasLess) {
  Supply supply;
  supply.left = 3 * kBlock;
  Arena arena("test", supply.source(), 0, kBlock);
  for (int i = 0; i < 6; ++i) arena.Allocate(kBlock / 2);
  EXPECT_EQ(arena.held_bytes(), 3 * kBlock);
  EXPECT_THROW(arena.Allocate(1), TensorError);
}

TEST(Arena, GivesFreeBlocksBackForALargerOne) {
  Supply supply;
  supply.left = 3 * kBlock;
  Arena arena("test", supply.source(), 0, kBlock);
  const Arena::Piece piece = arena.Allocate(kBlock);
  arena.Free(piece.place);
  arena.Allocate(3 * kBlock);
  EXPECT_EQ(supply.released, 1);
  EXPECT_EQ(arena.held_bytes(), 3 * kBlock);
}

TEST(Arena, SaysWhatIsMissing) {
  Supply supply;
  Arena arena("cuda:0", supply.source(), 2 * kBlock, kBlock);
  arena.Allocate(kBlock + 1);
  try {
    arena.Allocate(kBlock);
    FAIL() << "there is no room";
  } catch (const TensorError& error) {
    EXPECT_EQ(error.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(error.what(), HasSubstr("cuda:0: no memory for"));
    EXPECT_THAT(error.what(), HasSubstr("the limit is"));
    EXPECT_THAT(error.what(), HasSubstr("mnemo plan"));
  }
  EXPECT_EQ(arena.use().current_bytes, kBlock + kGranule);
  EXPECT_NO_THROW(arena.Allocate(kBlock - kGranule));
  EXPECT_THROW(arena.Reserve(3 * kBlock), TensorError);
  arena.SetLimit(0);
  EXPECT_NO_THROW(arena.Reserve(3 * kBlock));
}

TEST(Arena, ThreadsShareIt) {
  Supply supply;
  Arena arena("test", supply.source(), 0, kBlock);
  arena.Reserve(4096 * kGranule);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&arena, t] {
      for (int i = 0; i < 500; ++i) {
        const Arena::Piece piece = arena.Allocate(kGranule * (1 + (i + t) % 7));
        std::memset(piece.data, t, kGranule);
        EXPECT_EQ(static_cast<const unsigned char*>(piece.data)[kGranule - 1], t);
        arena.Free(piece.place);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(arena.use().current_bytes, 0);
  EXPECT_EQ(arena.largest_free_bytes(), 4096 * kGranule);
}

}  // namespace
}  // namespace mnemo
