#include "src/core/counting_backend.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "src/core/cpu/caching_allocator.h"
#include "src/core/tensor.h"

namespace mnemo {
namespace {

Tensor Counted(int64_t bytes) { return Tensor::Zeros({bytes / 4}, DType::kF32, kCountingDevice); }

TEST(CountingBackendTest, CountsWhatIsInUse) {
  Backend& backend = CountingBackend();
  backend.ResetPeakMemory();
  {
    const Tensor a = Counted(4000);
    { const Tensor b = Counted(400); }
    EXPECT_EQ(backend.Memory().current_bytes, 4000);
  }
  EXPECT_EQ(backend.Memory().current_bytes, 0);
  EXPECT_EQ(backend.Memory().peak_bytes, 4400);
}

// Inputs and output once more, in f32, while a kernel of the CPU runs on bf16.
TEST(CountingBackendTest, CountsTheCopiesThatTheCpuTakesForBf16) {
  for (const auto& [device, copies] : {std::pair(kCountingDevice, 0), std::pair(kCountingCpu, 2)}) {
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      Backend& backend = CountingBackend(device);
      const Tensor x = Tensor::Zeros({1000}, dtype, device),
                   out = Tensor::Zeros({1000}, dtype, device);
      backend.ResetPeakMemory();
      backend.Unary(UnaryOp::kExp, x, out);
      const int64_t taken = backend.Memory().peak_bytes - backend.Memory().current_bytes;
      EXPECT_EQ(taken, dtype == DType::kBF16 ? copies * 4000 : 0);
    }
  }
}

TEST(CountingBackendTest, HoldsOfEachClassWhatWasInUseAtOnce) {
  ResetCountedHeldBytes();
  EXPECT_EQ(CountedHeldBytes(), 0);
  {
    const Tensor a = Counted(1000), b = Counted(1000);  // of one class: 897 to 1024 bytes
  }
  EXPECT_EQ(CountedHeldBytes(), 2000);
  { const Tensor again = Counted(1020); }
  EXPECT_EQ(CountedHeldBytes(), 2 * 1020);  // the larger one took the place of one of the others
  { const Tensor other = Counted(4096); }
  EXPECT_EQ(CountedHeldBytes(), 2 * 1020 + 4096);
  const Tensor stays = Counted(512);
  ResetCountedHeldBytes();
  EXPECT_EQ(CountedHeldBytes(), 512);
}

// The same allocations through the allocator itself, which rounds sizes up by a fifth at most.
TEST(CountingBackendTest, HoldsWhatTheAllocatorHolds) {
  ResetCountedHeldBytes();
  CachingAllocator allocator(int64_t{1} << 40);
  std::vector<std::pair<void*, int64_t>> blocks;
  std::vector<Tensor> tensors;
  uint64_t random = 1;
  for (int i = 0; i < 4000; ++i) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    if (tensors.size() > 40 || (random >> 60 < 7 && !tensors.empty())) {
      const size_t at = (random >> 33) % tensors.size();
      allocator.Free(blocks[at].first, blocks[at].second);
      blocks.erase(blocks.begin() + static_cast<int64_t>(at));
      tensors.erase(tensors.begin() + static_cast<int64_t>(at));
    } else {
      const int64_t bytes = 4 + 4 * static_cast<int64_t>((random >> 33) % 50000);
      blocks.emplace_back(allocator.Allocate(bytes), bytes);
      tensors.push_back(Counted(bytes));
    }
  }
  tensors.clear();
  for (const auto& [block, bytes] : blocks) allocator.Free(block, bytes);
  const double held = static_cast<double>(allocator.cached_bytes());  // of whole classes
  EXPECT_LE(static_cast<double>(CountedHeldBytes()), held);
  EXPECT_GE(static_cast<double>(CountedHeldBytes()), 0.8 * held);
}

TEST(CountingBackendTest, AGpuCountsPiecesOfItsArena) {
  Backend& backend = CountingBackend(kCountingGpu);
  const int64_t before = backend.Memory().current_bytes;
  const Tensor a = Tensor::Empty({1}, DType::kF32, kCountingGpu);
  EXPECT_EQ(backend.Memory().current_bytes, before + 512);
  const Tensor b = Tensor::Empty({129}, DType::kF32, kCountingGpu);
  EXPECT_EQ(backend.Memory().current_bytes, before + 512 + 1024);
  EXPECT_EQ(b.device(), kCountingGpu);
  EXPECT_TRUE(b.fills_storage());
}

// Where neither of a factor's last two strides is one, its copy lies beside it for the product.
TEST(CountingBackendTest, AGpuCopiesWhatItsProductsCannotRead) {
  Backend& backend = CountingBackend(kCountingGpu);
  const Tensor wide = Tensor::Empty({64, 64, 2}, DType::kBF16, kCountingGpu);
  const Tensor out = Tensor::Empty({64, 64}, DType::kBF16, kCountingGpu);
  const auto taken = [&](const Tensor& a, const Tensor& b) {
    backend.ResetPeakMemory();
    backend.Gemm(a, b, 1, 0, out);
    return backend.Memory().peak_bytes - backend.Memory().current_bytes;
  };
  const Tensor dense = Tensor::Empty({64, 64}, DType::kBF16, kCountingGpu);
  EXPECT_EQ(taken(dense, dense.Transpose()), 0);
  const Tensor spread = wide.Slice(2, 1, 2).View({64, 64});
  EXPECT_EQ(taken(spread, dense), 64 * 64 * 2);
  EXPECT_EQ(taken(spread, spread), 2 * 64 * 64 * 2);
}

}  // namespace
}  // namespace mnemo
