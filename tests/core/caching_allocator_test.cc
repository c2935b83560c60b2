#include "src/core/cpu/caching_allocator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <array>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "src/core/backend.h"
#include "src/core/random.h"
#include "src/core/tensor.h"

namespace mnemo {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// Bytes that the process holds from the C library.
int64_t HeapBytes() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

TEST(CachingAllocator, ReusesABlockOfTheSameClass) {
  CachingAllocator allocator(kMiB);
  void* block = allocator.Allocate(1000);
  EXPECT_EQ(allocator.cached_bytes(), 0);
  allocator.Free(block, 1000);
  EXPECT_EQ(allocator.cached_bytes(), 1024);
  void* larger = allocator.Allocate(1025);
  EXPECT_NE(larger, block);
  EXPECT_EQ(allocator.Allocate(897), block);  // the class of 897 to 1024 bytes
  EXPECT_EQ(allocator.cached_bytes(), 0);
  void* second = allocator.Allocate(1000);
  EXPECT_NE(second, block);  // in use
  allocator.Free(block, 897);
  allocator.Free(second, 1000);
  allocator.Free(larger, 1025);
  EXPECT_EQ(allocator.cached_bytes(), 2 * 1024 + 1280);
}

// Any block of a class must be large enough for every size of it: written to its end, under the
// address sanitizer.
TEST(CachingAllocator, ReusedBlocksAreLargeEnough) {
  CachingAllocator allocator(64 * kMiB);
  std::vector<int64_t> sizes;
  for (int64_t bytes = 0; bytes <= 1100; ++bytes) sizes.push_back(bytes);
  for (int64_t power = 2048; power <= 8 * kMiB; power *= 2) {
    for (int64_t bytes : {power - 1, power, power + 1, power + power / 4, power + power / 4 + 1}) {
      sizes.push_back(bytes);
    }
  }
  for (int round = 0; round < 2; ++round) {
    for (int64_t bytes : sizes) {
      void* block = allocator.Allocate(bytes);
      EXPECT_EQ(reinterpret_cast<uintptr_t>(block) % 64, 0u);
      if (bytes > 0) static_cast<char*>(block)[bytes - 1] = 1;
      allocator.Free(block, bytes);
    }
  }
  EXPECT_EQ(allocator.use().current_bytes, 0);
}

TEST(CachingAllocator, KeepsNoMoreThanItsLimit) {
  constexpr int64_t kBlock = kMiB / 16, kCount = 64;
  const int64_t before = HeapBytes();
  CachingAllocator allocator(kMiB);
  std::vector<void*> blocks;
  for (int64_t i = 0; i < kCount; ++i) blocks.push_back(allocator.Allocate(kBlock));
  EXPECT_EQ(allocator.use().current_bytes, kCount * kBlock);
  for (void* block : blocks) allocator.Free(block, kBlock);
  EXPECT_EQ(allocator.cached_bytes(), kMiB);
  EXPECT_EQ(allocator.use().current_bytes, 0);
  EXPECT_EQ(allocator.use().peak_bytes, kCount * kBlock);
  if (!kSanitized) {  // the rest went back; a sixteenth more for headers, lists and this test
    EXPECT_GE(HeapBytes() - before, kMiB);
    EXPECT_LE(HeapBytes() - before, kMiB + kMiB / 16);
  }
}

TEST(CachingAllocator, KeepsNothingAtLimitZero) {
  CachingAllocator allocator(0);
  allocator.Free(allocator.Allocate(1000), 1000);
  EXPECT_EQ(allocator.cached_bytes(), 0);
}

// The pages are never touched, so that this takes addresses and no memory.
TEST(CachingAllocator, KeepsFourGiBByDefault) {
  CachingAllocator allocator;
  constexpr int64_t kGiB = 1024 * kMiB;
  std::array<void*, 6> blocks;
  for (void*& block : blocks) block = allocator.Allocate(kGiB);
  for (void* block : blocks) allocator.Free(block, kGiB);
  EXPECT_EQ(allocator.cached_bytes(), kSanitized ? 0 : 4 * kGiB);
}

TEST(CachingAllocator, GivesUpItsCacheBeforeItRefuses) {
  CachingAllocator allocator(kMiB);
  allocator.Free(allocator.Allocate(1000), 1000);
  EXPECT_EQ(allocator.cached_bytes(), 1024);
  EXPECT_THROW(allocator.Allocate(int64_t{1} << 60), TensorError);
  EXPECT_EQ(allocator.cached_bytes(), 0);
  EXPECT_EQ(allocator.use().current_bytes, 0);
}

struct Held {
  void* block = nullptr;
  int64_t bytes = 0;
  uint8_t pattern = 0;
};

// Takes, fills, checks and frees blocks of a few classes, some of which another thread took.
int64_t Exercise(CachingAllocator& allocator, std::array<Held, 8>& shared, std::mutex& mutex,
                 int thread, int64_t limit) {
  const RandomStream random(3, thread, "test/allocator");
  int64_t wrong = 0;
  std::array<Held, 8> mine;
  for (int step = 0; step < 3000; ++step) {
    Held& held = mine[random.Below(3 * step, mine.size())];
    for (int64_t i = 0; i < held.bytes; ++i) {
      wrong += static_cast<uint8_t*>(held.block)[i] != held.pattern;
    }
    if (held.block != nullptr) allocator.Free(held.block, held.bytes);
    held.bytes = 1 + static_cast<int64_t>(random.Below(3 * step + 1, 700));
    held.pattern = static_cast<uint8_t>(16 * thread + step % 16);
    held.block = allocator.Allocate(held.bytes);
    std::memset(held.block, held.pattern, held.bytes);
    wrong += allocator.cached_bytes() > limit + 4 * 768;  // each thread may be about to undo one
    std::lock_guard<std::mutex> lock(mutex);
    std::swap(held, shared[random.Below(3 * step + 2, shared.size())]);
  }
  for (const Held& held : mine) {
    if (held.block != nullptr) allocator.Free(held.block, held.bytes);
  }
  return wrong;
}

TEST(CachingAllocator, ServesThreadsAtOnce) {
  constexpr int64_t kLimit = 8192;  // so that the bound is hit as well
  CachingAllocator allocator(kLimit);
  std::array<Held, 8> shared;
  std::mutex mutex;
  std::array<int64_t, 4> wrong{};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] { wrong[i] = Exercise(allocator, shared, mutex, i, kLimit); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
  for (const Held& held : shared) {
    if (held.block != nullptr) allocator.Free(held.block, held.bytes);
  }
  EXPECT_EQ(allocator.use().current_bytes, 0);
  EXPECT_GT(allocator.cached_bytes(), 0);
  EXPECT_LE(allocator.cached_bytes(), kLimit);
  EXPECT_LE(allocator.use().peak_bytes, 5 * 8 * 700);
}

TEST(TensorMemory, CountsLiveTensors) {
  Backend& backend = CpuBackend();
  backend.ResetPeakMemory();
  MemoryUse before = backend.Memory();
  {
    Tensor a = Tensor::Empty({1000, 1000}, DType::kF32);
    Tensor view = a.Slice(0, 0, 10);
    Tensor b = Tensor::Empty({3}, DType::kF64);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.raw()) % 64, 0u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(b.raw()) % 64, 0u);
    EXPECT_EQ(backend.Memory().current_bytes - before.current_bytes, 4000024);
  }
  EXPECT_EQ(backend.Memory().current_bytes, before.current_bytes);
  EXPECT_EQ(backend.Memory().peak_bytes - before.current_bytes, 4000024);
  backend.ResetPeakMemory();
  EXPECT_EQ(backend.Memory().peak_bytes, before.current_bytes);
}

// Every size around the class boundaries: blocks that are alive together must not overlap.
TEST(TensorMemory, BlocksOfEverySizeAreDisjoint) {
  for (int round = 0; round < 2; ++round) {  // the second one from the cache
    std::vector<Tensor> live;
    for (int64_t bytes = 1; bytes < 5000; bytes += 3) {
      Tensor x = Tensor::Empty({bytes / 2 + 1}, DType::kBF16);
      std::memset(x.raw(), static_cast<int>(bytes & 0xff), x.bytes());
      live.push_back(x);
    }
    int64_t bytes = 1;
    for (const Tensor& x : live) {
      for (int64_t i = 0; i < x.bytes(); ++i) {
        ASSERT_EQ(static_cast<const uint8_t*>(x.raw())[i], bytes & 0xff);
      }
      bytes += 3;
    }
  }
}

TEST(TensorMemory, RefusesWhatTheMachineDoesNotHave) {
  try {
    Tensor::Empty({int64_t{1} << 60}, DType::kBF16);
    FAIL() << "no error";
  } catch (const TensorError& error) {
    EXPECT_EQ(error.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(error.what(), testing::HasSubstr("no memory for a tensor of 2305843009213693952"));
  }
}

}  // namespace
}  // namespace mnemo
