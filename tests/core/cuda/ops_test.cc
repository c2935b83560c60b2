// Every case of every primitive on a GPU against the CPU in f64 at the same, rounded inputs:
// values and first derivatives, contiguous and strided inputs, into memory full of NaN.
#include <gtest/gtest.h>

#include <set>
#include <tuple>

#include "tests/core/cuda/gpu_case.h"
#include "tests/core/op_cases.h"

namespace mnemo::testing {
namespace {

std::vector<OpCase> AllCases() {
  std::vector<OpCase> cases = ElementwiseCases();
  for (const auto& more : {ShapeCases(), StructuredCases()}) {
    cases.insert(cases.end(), more.begin(), more.end());
  }
  return cases;
}

struct Bounds {
  Bound outputs, gradients;
};

// Both sides round; sums have `length` terms. In bf16 a kernel computes in f32 and rounds once, and
// what is several kernels rounds as often.
Bounds BoundsOf(const OpCase& op, DType dtype) {
  if (dtype != DType::kBF16) {
    const double rounding = 2 * UnitRoundoff(dtype) * (16 + 2 * static_cast<double>(op.length));
    return {{0, 2 * rounding, 1}, {0, 2 * rounding, 1}};
  }
  const double unit = UnitRoundoff(DType::kBF16), single = 128 * UnitRoundoff(DType::kF32);
  // Their cases are several operations.
  const std::set<Primitive> composed = {Primitive::kBroadcastTo, Primitive::kSpreadToPeers,
                                        Primitive::kSumOverPeers};
  // Their derivatives are long formulas in basic operations, for third derivatives only.
  const std::set<Primitive> curved = {Primitive::kSiluGrad2, Primitive::kGeluGrad2};
  return {{(composed.contains(op.primitive) ? 3 : 1.001) * unit, single},
          {0, (curved.contains(op.primitive) ? 64 : 8) * unit + single}};
}

class CudaOps : public ::testing::TestWithParam<std::tuple<DType, bool>> {};

TEST_P(CudaOps, FollowTheCpuInDouble) {
  const auto [dtype, strided] = GetParam();
  for (const OpCase& op : AllCases()) {
    if (op.primitive == Primitive::kCast && dtype != DType::kF64) continue;  // of fixed types
    SCOPED_TRACE(fmt::format("{}: {}", Name(op.primitive), op.name));
    const Setting setting{.dtype = dtype, .device = kGpu, .strided = strided};
    const std::vector<Tensor> inputs = RoundedFor(setting, op.inputs);
    const Evaluation got = EvaluateIn(setting, op.run, inputs);
    const Evaluation want = EvaluateIn({}, op.run, inputs);
    const Bounds bounds = BoundsOf(op, dtype);
    ASSERT_EQ(got.outputs.size(), want.outputs.size());
    for (size_t i = 0; i < got.outputs.size(); ++i) {
      EXPECT_EQ(got.outputs[i].device(), kGpu);
      EXPECT_EQ(got.outputs[i].dtype(), dtype);
      ExpectClose(got.outputs[i], want.outputs[i], bounds.outputs, fmt::format("output {}", i));
    }
    for (size_t i = 0; i < got.gradients.size(); ++i) {
      ExpectClose(got.gradients[i], want.gradients[i], bounds.gradients,
                  fmt::format("gradient {}", i));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CudaOps,
                         ::testing::Combine(::testing::Values(DType::kF64, DType::kF32,
                                                              DType::kBF16),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return fmt::format("{}{}", Name(std::get<0>(info.param)),
                                              std::get<1>(info.param) ? "Strided" : "Contiguous");
                         });

}  // namespace
}  // namespace mnemo::testing
