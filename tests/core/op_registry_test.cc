// Every primitive: values against plain loops, first and second derivatives against central
// differences, f32 against f64; on contiguous tensors and on views with odd strides.
#include <gtest/gtest.h>

#include <limits>
#include <set>

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

// Rounding of a sum of `length` products, with a margin for the few operations around it.
double Rounding(const OpCase& op, double epsilon) {
  return epsilon * (16 + 2 * static_cast<double>(op.length));
}

TEST(OpRegistry, EveryPrimitiveHasACase) {
  std::set<Primitive> covered;
  for (const OpCase& op : AllCases()) covered.insert(op.primitive);
  for (int i = 0; i < static_cast<int>(Primitive::kCount); ++i) {
    const Primitive primitive = static_cast<Primitive>(i);
    if (primitive == Primitive::kRematerialized || primitive == Primitive::kFused) continue;
    EXPECT_TRUE(covered.contains(primitive)) << Name(primitive) << " has no test case";
  }
}

class OpCaseTest : public ::testing::TestWithParam<bool> {
 protected:
  // Calls check(case, inputs) for every case, with its inputs laid out as the parameter says.
  template <typename F>
  void ForEachCase(F&& check) {
    for (const OpCase& op : AllCases()) {
      SCOPED_TRACE(fmt::format("{}: {}", Name(op.primitive), op.name));
      std::vector<Tensor> inputs = op.inputs;
      if (GetParam()) {
        for (Tensor& x : inputs) x = Strided(x);
      }
      check(op, inputs);
    }
  }
};

TEST_P(OpCaseTest, ValuesMatchPlainLoops) {
  ForEachCase([](const OpCase& op, std::span<const Tensor> inputs) {
    if (!op.expected) return;
    std::vector<Plain> plain;
    for (const Tensor& x : inputs) plain.push_back({x.shape(), x.ToDoubles()});
    const std::vector<double> expected = op.expected(plain);
    const Tensor y = op.run(std::vector<Var>(inputs.begin(), inputs.end()))[0].value();
    ASSERT_EQ(y.elements(), static_cast<int64_t>(expected.size()));
    EXPECT_LE(RelativeError(y, Tensor::FromHost(expected, y.shape(), DType::kF64)),
              Rounding(op, std::numeric_limits<double>::epsilon()));
  });
}

TEST_P(OpCaseTest, FirstDerivatives) {
  ForEachCase([](const OpCase& op, std::span<const Tensor> inputs) {
    EXPECT_LE(FirstDerivativeError(op.run, inputs), op.difference_tolerance);
  });
}

TEST_P(OpCaseTest, SecondDerivatives) {
  ForEachCase([](const OpCase& op, std::span<const Tensor> inputs) {
    EXPECT_LE(SecondDerivativeError(op.run, inputs), op.difference_tolerance);
  });
}

TEST_P(OpCaseTest, SinglePrecisionFollowsDouble) {
  ForEachCase([](const OpCase& op, std::span<const Tensor> inputs) {
    if (op.primitive == Primitive::kCast) return;  // mixes both
    EXPECT_LE(SingleError(op.run, inputs), Rounding(op, std::numeric_limits<float>::epsilon()));
  });
}

INSTANTIATE_TEST_SUITE_P(Layouts, OpCaseTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Strided" : "Contiguous"; });

}  // namespace
}  // namespace mnemo::testing
