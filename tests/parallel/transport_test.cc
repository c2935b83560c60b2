// What every transport promises, whatever carries it.
#include "src/parallel/transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/parallel/rank_worlds.h"

namespace mnemo {
namespace {

using ::testing::HasSubstr;

const Channel kA{7, "a"}, kB{8, "b"};

std::vector<std::byte> Bytes(int64_t count, int seed) {
  std::vector<std::byte> bytes(count);
  for (int64_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<std::byte>((i * 31 + i / 256 * 17 + seed * 101 + 5) % 256);
  }
  return bytes;
}

int Next(const Transport& t) { return (t.rank() + 1) % t.size(); }
int Last(const Transport& t) { return (t.rank() + t.size() - 1) % t.size(); }

// Sizes around every boundary: empty, eager, rendezvous, MPI's own limits of 4 KiB and more.
TEST(TransportTest, PassesBytesAroundARing) {
  ForEachWorld([](Transport& t) {
    for (const int64_t size : {0, 1, 63, 64, 65, 4096, 70000, 300000}) {
      const std::vector<std::byte> out = Bytes(size, t.rank());
      std::vector<std::byte> in(size, std::byte{0xee});
      Transfer receive = t.Receive(Last(t), kA, in);
      Transfer send = t.Send(Next(t), kA, out);
      ASSERT_OK(receive.Wait(kPatience));
      ASSERT_OK(send.Wait(kPatience));
      EXPECT_TRUE(receive.Done() && send.Done());
      EXPECT_EQ(receive.bytes(), size);
      EXPECT_EQ(in, Bytes(size, Last(t)));
    }
  });
}

TEST(TransportTest, ReceivesMessagesOfAnyLength) {
  ForEachWorld([](Transport& t) {
    const std::vector<int64_t> sizes{100000, 0, 12, 5000, 200000};
    std::vector<std::vector<std::byte>> out, in(sizes.size());
    std::vector<Transfer> receives, sends;
    for (size_t i = 0; i < sizes.size(); ++i) {
      receives.push_back(t.ReceiveMessage(Last(t), kA, &in[i]));
    }
    for (const int64_t size : sizes) out.push_back(Bytes(size, t.rank()));
    for (const auto& bytes : out) sends.push_back(t.Send(Next(t), kA, bytes));
    for (size_t i = 0; i < sizes.size(); ++i) {
      ASSERT_OK(receives[i].Wait(kPatience));
      EXPECT_EQ(receives[i].bytes(), sizes[i]);
      EXPECT_EQ(in[i], Bytes(sizes[i], Last(t)));
    }
    for (Transfer& send : sends) ASSERT_OK(send.Wait(kPatience));
  });
}

// Many messages of mixed kinds, posted before any is waited for, sends before receives.
TEST(TransportTest, KeepsTheOrderOfAChannel) {
  ForEachWorld([](Transport& t) {
    constexpr int kCount = 60;
    const auto size = [](int i) { return i % 7 == 0 ? 20000 + i : 3 * i; };
    std::vector<std::vector<std::byte>> out(kCount), in(kCount);
    std::vector<Transfer> sends, receives;
    for (int i = 0; i < kCount; ++i) {
      out[i] = Bytes(size(i), i);
      sends.push_back(t.Send(Next(t), kA, out[i]));
    }
    for (int i = 0; i < kCount; ++i) {
      in[i].resize(i % 3 == 0 ? 1 : size(i));
      receives.push_back(i % 3 == 0 ? t.ReceiveMessage(Last(t), kA, &in[i])
                                    : t.Receive(Last(t), kA, in[i]));
    }
    for (int i = kCount - 1; i >= 0; --i) {
      ASSERT_OK(receives[i].Wait(kPatience));
      EXPECT_EQ(in[i], Bytes(size(i), i));
    }
    for (Transfer& send : sends) ASSERT_OK(send.Wait(kPatience));
  });
}

// A message on one channel passes one that nobody receives yet on another.
TEST(TransportTest, ChannelsDoNotWaitForEachOther) {
  ForEachWorld([](Transport& t) {
    const std::vector<std::byte> long_one = Bytes(200000, 1), short_one = Bytes(10, 2);
    Transfer first = t.Send(Next(t), kA, long_one);
    Transfer second = t.Send(Next(t), kB, short_one);
    std::vector<std::byte> in_b(10), in_a(200000);
    ASSERT_OK(t.Receive(Last(t), kB, in_b).Wait(kPatience));
    EXPECT_EQ(in_b, short_one);
    ASSERT_OK(t.Receive(Last(t), kA, in_a).Wait(kPatience));
    EXPECT_EQ(in_a, long_one);
    ASSERT_OK(first.Wait(kPatience));
    ASSERT_OK(second.Wait(kPatience));
  });
}

// Both directions of one pair and one channel at once, as on the two edges of two ranks.
TEST(TransportTest, DirectionsDoNotMix) {
  ForEachWorld(
      [](Transport& t) {
        if (t.rank() > 1) return;
        const int peer = 1 - t.rank();
        std::vector<std::byte> in(50000);
        const std::vector<std::byte> out = Bytes(50000, t.rank());
        Transfer send = t.Send(peer, kA, out), receive = t.Receive(peer, kA, in);
        ASSERT_OK(send.Wait(kPatience));
        ASSERT_OK(receive.Wait(kPatience));
        EXPECT_EQ(in, Bytes(50000, peer));
      },
      2);
}

TEST(TransportTest, AWaitEndsAtItsDeadlineWithALastWord) {
  ForEachWorld(
      [](Transport& t) {
        const auto all = MakeWorld(t);
        std::vector<std::byte> in(12);
        Transfer receive = t.Receive(Last(t), kB, in);
        const absl::Status late = receive.Wait(std::chrono::milliseconds(20));
        EXPECT_TRUE(absl::IsDeadlineExceeded(late));
        EXPECT_THAT(std::string(late.message()),
                    HasSubstr(fmt::format("rank {}: receive from rank {} on 'b' (channel 8), "
                                          "12 bytes, message",
                                          t.rank(), Last(t))));
        EXPECT_THAT(std::string(late.message()), HasSubstr("not done within 0.0 s"));
        EXPECT_FALSE(receive.Done());
        ASSERT_OK(all->Barrier());
        // It went on meanwhile, and can be waited for again.
        const std::vector<std::byte> out = Bytes(12, t.rank());
        Transfer send = t.Send(Next(t), kB, out);
        ASSERT_OK(receive.Wait(kPatience));
        ASSERT_OK(send.Wait(kPatience));
        EXPECT_EQ(in, Bytes(12, Last(t)));
      },
      2);
}

}  // namespace
}  // namespace mnemo
