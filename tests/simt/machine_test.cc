#include "tests/simt/machine.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

namespace mnemo::simt {
namespace {

int Thread() { return static_cast<int>(ThreadIndex().x); }

uint16_t ToBf16(float x) {  // of numbers that have one
  uint32_t word;
  std::memcpy(&word, &x, 4);
  return static_cast<uint16_t>(word >> 16);
}

void Barrier() { BlockBarrier(0, 0); }

// Runs what comes first under every order and moment of asynchronous work.
class Machine : public ::testing::TestWithParam<Settings> {
 protected:
  void SetUp() override { settings = GetParam(); }
  void TearDown() override { settings = {}; }
};
INSTANTIATE_TEST_SUITE_P(All, Machine,
                         ::testing::Values(Settings{false, false}, Settings{false, true},
                                           Settings{true, false}, Settings{true, true}));

TEST_P(Machine, ThreadsHaveTheirPlaces) {
  std::vector<int> seen(5 * 70);
  RunGrid(5, 70, 0, 1, [&] {
    EXPECT_EQ(BlockSize().x, 70u);
    EXPECT_EQ(GridSize().x, 5u);
    EXPECT_EQ(Lane(), Thread() % 32);
    ++seen[BlockIndex().x * 70 + Thread()];
  });
  EXPECT_EQ(seen, std::vector<int>(5 * 70, 1));
}

TEST_P(Machine, GridsAndBlocksHaveThreeDimensions) {
  std::vector<int> seen(2 * 3 * 4 * 5);
  RunGrid(Dim(2, 3), Dim(4, 5), 0, 1, [&] {
    const Dim block = BlockIndex(), thread = ThreadIndex();
    EXPECT_EQ(Lane(), static_cast<int>(thread.y * 4 + thread.x));
    EXPECT_EQ(block.z + thread.z, 0u);
    ++seen[((block.y * 2 + block.x) * 5 + thread.y) * 4 + thread.x];
  });
  EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
}

TEST_P(Machine, LanesExchange) {
  // 40 threads: the second warp has eight lanes.
  RunGrid(1, 40, 0, 1, [&] {
    for (int turn = 0; turn < 3; ++turn) {
      const Lanes lanes = Exchange("test", 100 * turn + Thread());
      EXPECT_EQ(lanes.present(), Thread() < 32 ? ~0u : 0xffu);
      EXPECT_EQ(lanes.at<int>(Lane() ^ 1), 100 * turn + (Thread() ^ 1));
    }
  });
}

TEST_P(Machine, EndedLanesAreNotWaitedFor) {
  int count = 0;
  RunGrid(1, 64, 0, 1, [&] {
    if (Thread() % 2 == 1) return;
    EXPECT_EQ(Exchange("test", 0).present(), 0x55555555u);
    Barrier();
    ++count;
  });
  EXPECT_EQ(count, 32);
}

TEST_P(Machine, SharedMemoryIsNaNAtFirstAndSeenBehindABarrier) {
  RunGrid(2, 96, 4 * 96, 1, [&] {
    auto* shared = reinterpret_cast<float*>(SharedMemory());
    EXPECT_TRUE(std::isnan(shared[Thread()]));
    Barrier();
    shared[Thread()] = static_cast<float>(Thread());
    Barrier();
    EXPECT_EQ(shared[95 - Thread()], static_cast<float>(95 - Thread()));
  });
}

TEST_P(Machine, NamedBarriersHoldSomeThreads) {
  std::vector<int> order;
  RunGrid(1, 128, 0, 1, [&] {
    if (Thread() >= 64) {
      BlockBarrier(3, 64);
      order.push_back(1);
      BlockBarrier(3, 64);
      EXPECT_EQ(order.size(), 64u);
    }
  });
}

TEST(MachineOrder, GoesBackwardsWhereAsked) {
  for (const bool backwards : {false, true}) {
    settings.backwards = backwards;
    std::vector<int> order;
    RunGrid(1, 96, 0, 1, [&] {
      if (Lane() == 0) order.push_back(Thread() / 32);
    });
    EXPECT_EQ(order, backwards ? (std::vector<int>{2, 1, 0}) : (std::vector<int>{0, 1, 2}));
  }
  settings = {};
}

TEST_P(Machine, CopiesArriveAtTheirWait) {
  std::vector<float> from(8, 7);
  RunGrid(1, 1, 64, 1, [&] {
    auto* to = reinterpret_cast<float*>(SharedMemory());
    CopyAsync(0, from.data(), 16, 16);
    CopyCommit();
    CopyAsync(16, from.data(), 16, 0);
    CopyCommit();
    EXPECT_EQ(std::isnan(to[0]), settings.late);
    CopyWait(1);
    EXPECT_EQ(to[3], 7);
    EXPECT_EQ(std::isnan(to[4]), settings.late);
    CopyWait(0);
    EXPECT_EQ(to[4], 0);
    EXPECT_TRUE(std::isnan(to[8]));
  });
}

TEST_P(Machine, BarriersCountArrivalsAndBytes) {
  std::vector<float> from(64, 3);
  RunGrid(1, 64, 1024, 1, [&] {
    const auto* data = reinterpret_cast<float*>(SharedMemory() + 512);
    if (Thread() == 0) BarrierInit(0, 3);  // two warps and the bytes' announcer
    Barrier();
    for (uint32_t turn = 0; turn < 3; ++turn) {
      if (Thread() == 0) {
        BarrierArrive(0, 256);
        BulkLoad(512, from.data(), 256, 0);
      }
      if (Lane() == 0) BarrierArrive(0, 0);
      BarrierWait(0, turn & 1);
      EXPECT_EQ(data[Thread()], 3);
      Barrier();
      if (Thread() == 0) std::memset(SharedMemory() + 512, 0xff, 256);
      Barrier();
    }
  });
}

TEST_P(Machine, StoresReadAtTheirWait) {
  std::vector<float> to(4, 0);
  RunGrid(1, 1, 64, 1, [&] {
    auto* from = reinterpret_cast<float*>(SharedMemory());
    std::fill(from, from + 4, 1.0f);
    BulkStore(to.data(), 0, 16);
    BulkCommit();
    from[0] = 2;  // too early
    BulkWait(0);
  });
  EXPECT_EQ(to[0], settings.late ? 2 : 1);
  EXPECT_EQ(to[1], 1);
}

TEST_P(Machine, BlocksOfAClusterSend) {
  RunGrid(4, 32, 1024, 2, [&] {
    const uint32_t other = 1 - ClusterRank();
    EXPECT_EQ(ClusterRank(), BlockIndex().x % 2);
    if (Thread() == 0) BarrierInit(0, 1);
    ClusterBarrier();
    if (Thread() == 0) BarrierArrive(0, 32 * 8);
    const uint32_t mine[2] = {BlockIndex().x, static_cast<uint32_t>(Thread())};
    Send(AddressInRank(64 + 8 * Thread(), other), mine, 8, AddressInRank(0, other));
    BarrierWait(0, 0);
    uint32_t got[2];
    std::memcpy(got, SharedMemory() + 64 + 8 * Thread(), 8);
    EXPECT_EQ(got[0], BlockIndex().x ^ 1);
    EXPECT_EQ(got[1], static_cast<uint32_t>(Thread()));
    ClusterBarrier();
  });
}

TEST(MachineMemory, HasAnEnd) {
  const size_t before = AllocatedBytes();
  void* some = Allocate(1 << 20);
  ASSERT_NE(some, nullptr);
  EXPECT_GE(AllocatedBytes(), before + (1 << 20));
  EXPECT_EQ(Allocate(kDeviceBytes), nullptr);
  Free(some);
  EXPECT_EQ(AllocatedBytes(), before);
}

// ---- Matrix products ---------------------------------------------------------------------------

float ElementA(int m, int k) { return static_cast<float>((m * 7 + k * 3) % 11 - 5); }
float ElementB(int k, int n) { return static_cast<float>((k * 5 + n * 2) % 13 - 6); }

// Element (row, col) of a swizzled tile: the 16-byte piece c of row r lies at piece c ^ (r % 8).
void PutElement(std::byte* tile, int row, int col, float x) {
  const uint16_t bits = ToBf16(x);
  std::memcpy(tile + row * 128 + ((col / 8) ^ (row % 8)) * 16 + col % 8 * 2, &bits, 2);
}

struct ProductCase {
  int n;
  bool a_in_registers, a_rows_are_k, b_rows_are_k;
};

void CheckProduct(const ProductCase& c) {
  constexpr uint32_t kA = 0, kB = 8192;
  RunGrid(1, 128, 16384, 1, [&] {
    if (Thread() == 0) {
      for (int k = 0; k < 16; ++k) {
        for (int m = 0; m < 64; ++m)
          PutElement(SharedMemory() + kA, c.a_rows_are_k ? k : m, c.a_rows_are_k ? m : k,
                     ElementA(m, k));
        for (int n = 0; n < c.n; ++n)
          PutElement(SharedMemory() + kB, c.b_rows_are_k ? k : n, c.b_rows_are_k ? n : k,
                     ElementB(k, n));
      }
    }
    Barrier();
    const int lane = Lane(), row = 16 * (Thread() / 32) + lane / 4, pair = 2 * (lane % 4);
    uint32_t a[4];
    for (int i = 0; i < 4; ++i) {
      const int m = row + 8 * (i % 2), k = pair + 8 * (i / 2);
      a[i] = ToBf16(ElementA(m, k)) | static_cast<uint32_t>(ToBf16(ElementA(m, k + 1))) << 16;
    }
    float d[32];
    std::fill(d, d + 32, 0.5f);
    const Product product{
        d, c.n, c.a_in_registers ? a : nullptr, kA, kB, c.a_rows_are_k, c.b_rows_are_k, 1, false};
    StartProduct(product);
    Product again = product;
    again.sign = -3, again.accumulate = true;
    StartProduct(again);
    CommitProducts();
    EXPECT_EQ(std::isnan(d[0]), settings.late);
    WaitForProducts(0);
    for (int i = 0; i < c.n / 2; ++i) {
      const int m = row + 8 * (i / 2 % 2), n = 8 * (i / 4) + pair + i % 2;
      float want = 0;
      for (int k = 0; k < 16; ++k) want += ElementA(m, k) * ElementB(k, n);
      EXPECT_EQ(d[i], want - 3 * want) << m << ", " << n;
    }
    EXPECT_TRUE(c.n == 64 || d[c.n / 2] == 0.5f);
  });
}

TEST_P(Machine, ProductsOfEveryForm) {
  for (const int n : {16, 32, 64}) {
    for (const bool registers : {false, true}) {
      for (const bool a_rows_are_k : {false, true}) {
        for (const bool b_rows_are_k : {false, true}) {
          if (registers && a_rows_are_k) continue;
          CheckProduct({n, registers, a_rows_are_k, b_rows_are_k});
        }
      }
    }
  }
}

// ---- What a kernel does wrong ------------------------------------------------------------------

TEST(MachineDeathTest, SaysWhoWaitsForEver) {
  EXPECT_DEATH(RunGrid(1, 64, 0, 1, [] { BlockBarrier(1, 96); }),
               "no thread can go on: 64 at a barrier of the block .first: block 0, thread 0.");
  EXPECT_DEATH(RunGrid(1, 32, 64, 1,
                       [] {
                         if (Thread() == 0) BarrierInit(0, 1);
                         Barrier();
                         BarrierWait(0, 0);
                       }),
               "32 at a barrier in shared memory");
}

TEST(MachineDeathTest, RefusesLanesAtDifferentInstructions) {
  EXPECT_DEATH(RunGrid(1, 32, 0, 1, [] { Exchange(Thread() == 3 ? "one" : "other", 0); }),
               "different instructions: other, one .block 0, thread 3.");
}

TEST(MachineDeathTest, RefusesStoresThatOutliveTheirThread) {
  std::vector<float> to(4);
  EXPECT_DEATH(
      {
        settings.late = true;
        RunGrid(1, 1, 64, 1, [&] {
          BulkStore(to.data(), 0, 16);
          BulkCommit();
        });
      },
      "stores may still read shared memory");
}

TEST(MachineDeathTest, RefusesTooManyArrivals) {
  EXPECT_DEATH(RunGrid(1, 1, 64, 1,
                       [] {
                         BarrierInit(0, 1);
                         BarrierArrive(0, 16);
                         BarrierArrive(0, 0);
                       }),
               "expects no more");
}

}  // namespace
}  // namespace mnemo::simt
