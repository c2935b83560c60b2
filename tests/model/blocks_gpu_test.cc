// The blocks on a GPU against f64 on the CPU (block_comparison.h). Needs a GPU.
#include <gtest/gtest.h>

#include "src/core/fused_op.h"
#include "tests/core/cuda/poison.h"
#include "tests/model/block_comparison.h"

namespace mnemo::testing {
namespace {

class CudaBlocks : public ::testing::TestWithParam<BlockCase> {
 protected:
  static BlockForm Form(DType dtype, FusedPolicy policy) {
    return {.dtype = dtype, .device = kGpu, .policy = policy, .poison = PoisonFreeMemory};
  }
};

TEST_P(CudaBlocks, SinglePrecisionFollowsDouble) {
  CompareBlock(GetParam(), Form(DType::kF32, {}));
}

TEST_P(CudaBlocks, MixedPrecisionFollowsDouble) {
  CompareBlock(GetParam(), Form(DType::kBF16, {.strict = GetParam().kernels}));
}

TEST_P(CudaBlocks, MixedPrecisionWithoutKernelsFollowsDouble) {
  CompareBlock(GetParam(), Form(DType::kBF16, {.enabled = false}));
}

INSTANTIATE_TEST_SUITE_P(Cases, CudaBlocks, ::testing::ValuesIn(BlockCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace mnemo::testing
