// The comparison that cuda_blocks_test makes on a GPU, made on the CPU: f32 and mixed precision
// against f64. Shows that the bounds hold where the formulas are right.
#include "tests/model/block_comparison.h"

#include <gtest/gtest.h>

namespace mnemo::testing {
namespace {

class BlockComparison : public ::testing::TestWithParam<BlockCase> {};

TEST_P(BlockComparison, SinglePrecisionFollowsDouble) {
  CompareBlock(GetParam(), {.dtype = DType::kF32});
}

TEST_P(BlockComparison, MixedPrecisionFollowsDouble) {
  CompareBlock(GetParam(), {.dtype = DType::kBF16});
}

TEST_P(BlockComparison, KernelsOfAGpuTakeWhatTheCaseSays) {
  if (!GetParam().kernels) GTEST_SKIP() << "is composed in part";
  RequireKernels(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Cases, BlockComparison, ::testing::ValuesIn(BlockCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace mnemo::testing
