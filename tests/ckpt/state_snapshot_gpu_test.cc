// Copies from a GPU: of what kernels before have written, beside kernels that follow.
#include <gtest/gtest.h>

#include <thread>

#include "src/ckpt/state_snapshot.h"
#include "src/core/backend.h"

namespace mnemo {
namespace {

constexpr Device kGpu{DeviceType::kCuda};

TEST(StateSnapshotGpuTest, HoldsWhatWasWrittenBeforeAndOthersMayReadItMeanwhile) {
  Backend& gpu = Backend::For(kGpu);
  const Tensor large = Tensor::Empty({64 << 20}, DType::kF32, kGpu);
  const Tensor small = Tensor::Empty({3, 5}, DType::kBF16, kGpu);
  const Tensor sum = Tensor::Empty({1}, DType::kF32, kGpu);
  StateSnapshot snapshot;
  for (const double value : {1.0, 2.0, 3.0}) {
    for (int i = 0; i < 20; ++i) gpu.Fill(large, -1);  // still at work when the copy is asked for
    gpu.Fill(large, value);
    gpu.Fill(small, value);
    const std::vector<StatePiece> pieces = {WholePiece("large", large), WholePiece("small", small)};
    const auto copies = snapshot.Take(pieces);
    ASSERT_TRUE(copies.ok()) << copies.status();
    gpu.Reduce(ReduceOp::kSum, large, sum);
    ASSERT_TRUE(snapshot.Wait().ok());
    gpu.Fill(large, -2);
    gpu.Fill(small, -2);
    EXPECT_EQ(sum.Item(), value * (64 << 20));
    EXPECT_EQ((*copies)[1].value.ToDoubles(), std::vector<double>(15, value));
    const Tensor& copy = (*copies)[0].value;
    EXPECT_EQ(copy.device(), Device());
    for (int64_t i = 0; i < copy.elements(); ++i) ASSERT_EQ(copy.data<float>()[i], value) << i;
  }
}

// As the thread that writes does, while another takes the next steps.
TEST(StateSnapshotGpuTest, WaitsOnAnyThread) {
  const Tensor value = Tensor::Full({32 << 20}, 7, DType::kF32, kGpu);
  StateSnapshot snapshot;
  const auto copies = snapshot.Take(std::vector<StatePiece>{WholePiece("x", value)});
  ASSERT_TRUE(copies.ok()) << copies.status();
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      EXPECT_TRUE(snapshot.Wait().ok());
      EXPECT_EQ((*copies)[0].value.data<float>()[(32 << 20) - 1], 7);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace mnemo
