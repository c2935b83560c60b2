// The device itself: memory, copies, norms and the optimizer, threads, tensors beyond 2^31
// elements.
#include "src/core/cuda/device.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>
#include <utility>

#include "src/core/cuda/cuda_backend.h"
#include "tests/core/cuda/gpu_case.h"

namespace mnemo::testing {
namespace {

CudaDevice& Gpu() { return static_cast<CudaDevice&>(Backend::For(kGpu)); }

TEST(CudaDevice, SaysWhichGpusThereAre) {
  const int count = cuda::DeviceCount();
  ASSERT_GE(count, 1);
  try {
    Backend::For({DeviceType::kCuda, count});
    FAIL() << "there is no such GPU";
  } catch (const TensorError& error) {
    EXPECT_NE(std::string(error.what()).find(fmt::format("cuda:{}", count)), std::string::npos);
  }
}

TEST(CudaDevice, CountsAndReusesMemory) {
  const MemoryUse before = Gpu().Memory();
  void* first = nullptr;
  {
    const Tensor x = Tensor::Empty({1000}, DType::kF32, kGpu);
    first = x.raw();
    EXPECT_EQ(Gpu().Memory().current_bytes, before.current_bytes + 4096);
    Gpu().ResetPeakMemory();
    const Tensor y = Tensor::Empty({1 << 20}, DType::kF64, kGpu);
    EXPECT_EQ(Gpu().Memory().peak_bytes, before.current_bytes + 4096 + (8 << 20));
  }
  EXPECT_EQ(Gpu().Memory().current_bytes, before.current_bytes);
  EXPECT_EQ(Tensor::Empty({1000}, DType::kF32, kGpu).raw(), first);
}

TEST(CudaDevice, SaysWhenMemoryIsOut) {
  try {
    Tensor::Empty({int64_t{1} << 50}, DType::kBF16, kGpu);
    FAIL() << "a petabyte";
  } catch (const TensorError& error) {
    EXPECT_EQ(error.status().code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(Tensor::Full({3}, 2, DType::kF32, kGpu).ToDoubles(), std::vector<double>(3, 2.0));
}

// More than the pinned ring holds, and many small copies, while the host's memory changes behind.
TEST(CudaDevice, CopiesToTheGpuReadTheHostAtOnce) {
  for (const int64_t n : {1, 3, 1000, 300'001, 12'345'677}) {
    std::vector<float> host(n);
    std::vector<Tensor> all;
    const int copies = n > 1'000'000 ? 3 : 200;
    for (int i = 0; i < copies; ++i) {
      std::fill(host.begin(), host.end(), static_cast<float>(i));
      host.back() = 1000;
      all.push_back(Tensor::Empty({n}, DType::kF32, kGpu));
      Gpu().CopyFromHost(host.data(), all.back());
      std::fill(host.begin(), host.end(), -1.0f);
      if (all.size() > 20) all.erase(all.begin());
    }
    const std::vector<float> last = all.back().ToFloats();
    EXPECT_EQ(std::count(last.begin(), last.end(), static_cast<float>(copies - 1)), n - 1);
    EXPECT_EQ(last.back(), 1000);
  }
}

TEST(CudaDevice, TensorsGoThereAndBack) {
  const Tensor x = Uniform({3, 5, 7}, 1);
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16}) {
    const Tensor there = x.To(dtype).To(kGpu);
    EXPECT_EQ(there.device(), kGpu);
    EXPECT_EQ(there.To(Device{}).ToDoubles(), x.To(dtype).ToDoubles());
    EXPECT_EQ(there.Slice(1, 1, 3).Transpose().ToDoubles(),
              x.To(dtype).Slice(1, 1, 3).Transpose().ToDoubles());
    EXPECT_EQ(there.Clone().ToDoubles(), x.To(dtype).ToDoubles());
  }
  const std::vector<int32_t> ids = {4, -1, 7};
  EXPECT_EQ(Tensor::FromHost(ids, {3}, kGpu).ToInts(), ids);
  EXPECT_EQ(Tensor::Empty({0, 3}, DType::kF32, kGpu).ToDoubles(), std::vector<double>());
}

TEST(CudaDevice, SquaredNormsOfManyTensors) {
  std::vector<Tensor> tensors;
  std::vector<double> want;
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF64}) {
    // Aligned to 16 bytes, and one element behind that.
    for (const int64_t n : {0, 1, 33, 1000, 3'000'017}) {
      for (const int64_t skipped : {0, 1}) {
        const Tensor x = Uniform({n + skipped}, 1 + tensors.size()).To(dtype);
        long double sum = 0;  // in double, rounding would be the larger error
        for (const long double value : x.Slice(0, skipped, n + skipped).ToDoubles())
          sum += value * value;
        tensors.push_back(x.To(kGpu).Slice(0, skipped, n + skipped));
        want.push_back(static_cast<double>(sum));
      }
    }
  }
  // More than one launch takes.
  for (int i = 0; i < 1100; ++i) {
    tensors.push_back(Tensor::Full({5}, i, DType::kF32, kGpu));
    want.push_back(5.0 * i * i);
  }
  const std::vector<double> got = Gpu().SquaredNorms(tensors);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    const double unit = UnitRoundoff(tensors[i].dtype() == DType::kF64 ? DType::kF64 : DType::kF32);
    EXPECT_NEAR(got[i], want[i], 128 * unit * want[i]) << i;
  }
  EXPECT_EQ(got, Gpu().SquaredNorms(tensors));
  EXPECT_EQ(Gpu().SquaredNorms({}), std::vector<double>());
  const double bad[] = {NAN, INFINITY};
  for (const double value : bad) {
    const Tensor x = Tensor::Zeros({100'003}, DType::kF32, kGpu);
    Gpu().Fill(x.Slice(0, 77'777, 77'778), value);
    EXPECT_FALSE(std::isfinite(Gpu().SquaredNorms({&x, 1})[0]));
  }
}

TEST(CudaDevice, AdamWFollowsTheCpu) {
  const AdamWStep step{.rate = 1e-2,
                       .beta1 = 0.9,
                       .beta2 = 0.99,
                       .epsilon = 1e-8,
                       .decay = 0.1,
                       .correction1 = 0.19,
                       .correction2 = 0.0199,
                       .gradient_scale = 0.7};
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    for (const auto& [n, skipped] : std::vector<std::pair<int64_t, int64_t>>{
             {1, 0}, {7, 0}, {1'000'003, 0}, {1'000'003, 1}}) {  // the last not aligned to 16 bytes
      const auto run = [&, n = n, skipped = skipped](Device device, DType type) {
        std::vector<Tensor> x;
        for (int i = 0; i < 4; ++i) {
          const Tensor all = Uniform({n + skipped}, 1 + i, i == 3 ? 0.01 : -1, 1);
          x.push_back(all.To(dtype).To(type).To(device).Slice(0, skipped, n + skipped));
        }
        for (int i = 0; i < 3; ++i) Backend::For(device).AdamW(step, x[0], x[1], x[2], x[3]);
        return x;
      };
      const std::vector<Tensor> got = run(kGpu, dtype), want = run({}, DType::kF64);
      for (int i = 1; i < 4; ++i) {
        ExpectClose(got[i], want[i], {.absolute = 32 * UnitRoundoff(dtype), .scale = 1},
                    fmt::format("{} {} + {} tensor {}", Name(dtype), skipped, n, i));
      }
    }
  }
}

TEST(CudaDevice, ThreadsWorkSideBySide) {
  const Tensor a = Uniform({64, 128}, 1).To(DType::kF32).To(kGpu);
  const Tensor b = Uniform({128, 96}, 2).To(DType::kF32).To(kGpu);
  const auto product = [&] {
    const Tensor out = Tensor::Full({64, 96}, NAN, DType::kF32, kGpu);
    Gpu().Gemm(a, b, 1, 0, out);
    Gpu().Affine(out, 2, 1, out);
    return out.ToDoubles();
  };
  const std::vector<double> alone = product();
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) EXPECT_EQ(product(), alone);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Offsets and counts that no 32-bit number holds. 9 GB of the GPU's memory.
TEST(CudaDevice, TensorsBeyond31Bits) {
  constexpr int64_t kRows = (1 << 15) + 1, kColumns = (1 << 16) + 8;
  Tensor x, y;
  try {
    x = Tensor::Full({kRows, kColumns}, 1, DType::kBF16, kGpu);
    y = Tensor::Full({kRows, kColumns}, NAN, DType::kBF16, kGpu);
  } catch (const TensorError& error) {
    // A smaller GPU, or one that others use, has no room for it; anything else is a failure.
    ASSERT_EQ(error.status().code(), absl::StatusCode::kResourceExhausted) << error.what();
    GTEST_SKIP() << error.what();
  }
  const auto last = [&](const Tensor& z) { return z.Slice(0, kRows - 1, kRows); };
  Gpu().Fill(last(x), 2);
  Gpu().Affine(x, 3, 1, y);
  EXPECT_EQ(y.Slice(0, 0, 1).ToDoubles(), std::vector<double>(kColumns, 4.0));
  EXPECT_EQ(last(y).ToDoubles(), std::vector<double>(kColumns, 7.0));
  Gpu().Copy(x, y);
  EXPECT_EQ(last(y).ToDoubles(), std::vector<double>(kColumns, 2.0));

  const Tensor largest = Tensor::Zeros({1, 1}, DType::kBF16, kGpu);
  Gpu().Reduce(ReduceOp::kMax, x, largest);
  EXPECT_EQ(largest.Item(), 2);
  const Tensor sums = Tensor::Zeros({kRows, 1}, DType::kBF16, kGpu);
  Gpu().Reduce(ReduceOp::kSum, x, sums);
  EXPECT_EQ(sums.ToDoubles().front(), 0x1p16);
  EXPECT_EQ(sums.ToDoubles().back(), 0x1p17);
  EXPECT_EQ(Gpu().SquaredNorms({&x, 1})[0],
            static_cast<double>(kRows - 1) * kColumns + 4.0 * kColumns);

  Gpu().Softmax(x, y);
  EXPECT_EQ(last(y).ToDoubles(), std::vector<double>(kColumns, 0x1p-16));
  const std::vector<int32_t> ids = {kRows - 1, 0, kRows - 1};
  const Tensor rows = Tensor::Full({3, kColumns}, NAN, DType::kBF16, kGpu);
  Gpu().GatherRows(x, Tensor::FromHost(ids, {3}, kGpu), rows);
  EXPECT_EQ(rows.Slice(0, 0, 1).ToDoubles(), std::vector<double>(kColumns, 2.0));
  EXPECT_EQ(rows.Slice(0, 1, 2).ToDoubles(), std::vector<double>(kColumns, 1.0));
  const Tensor product = Tensor::Full({kRows, 8}, NAN, DType::kF32, kGpu);
  Gpu().Gemm(x, Tensor::Full({kColumns, 8}, 1, DType::kBF16, kGpu), 1, 0, product);
  EXPECT_EQ(last(product).ToDoubles(), std::vector<double>(8, 2.0 * kColumns));
}

}  // namespace
}  // namespace mnemo::testing
