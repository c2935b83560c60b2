// How a fused op chooses between a device's kernel and its composed definition.
#include "src/core/fused_op.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "src/core/ops.h"
#include "src/core/planned_fused_policy.h"
#include "tests/core/gradient_check.h"

namespace mnemo::testing {
namespace {

// x^2 + shift. The composition and the kernel differ by 1000 in the value, so that a test sees
// which one ran.
std::vector<Var> ComposeSquare(std::span<const Var> inputs, const double& shift) {
  return {Affine(Square(inputs[0]), 1, shift)};
}

FusedOp<double>& SquareOp() {
  static FusedOp<double> op("test_square", &ComposeSquare);
  return op;
}

class FusedOpTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SquareOp().Register(
        DeviceType::kCpu,
        {.accepts = [](std::span<const Tensor> inputs,
                       const double&) { return inputs[0].dim(0) % 2 == 0; },
         .forward = [this](std::span<const Tensor> inputs, const double& shift,
                           std::vector<Tensor>* saved) -> std::vector<Tensor> {
           asked_to_save_ = saved != nullptr;
           if (saved != nullptr) saved->push_back(Scale(inputs[0], 2).value());
           return {Affine(Square(inputs[0]), 1, shift + 1000).value()};
         },
         .backward =
             [](std::span<const Tensor>, const double&, std::span<const Tensor> saved,
                std::span<const Tensor> gradients, const std::vector<bool>& needs) {
               std::vector<Tensor> results(1);
               if (needs[0]) results[0] = Mul(saved[0], gradients[0]).value();
               return results;
             }});
    before_ = FusedCounts()["test_square"];
  }
  void TearDown() override {
    SquareOp().Unregister(DeviceType::kCpu);
    SetFusedPolicy({});
  }

  double Run(int64_t size) const {
    const Var x(Tensor::Full({size}, 3, DType::kF64));
    return SquareOp()({&x, 1}, 0.5)[0].value().ToDoubles()[0];
  }

  // How much each count has grown since SetUp.
  FusedCount Counted() const {
    const FusedCount now = FusedCounts()["test_square"];
    return {now.kernel - before_.kernel, now.composed - before_.composed,
            now.fallback - before_.fallback};
  }

  bool asked_to_save_ = false;
  FusedCount before_;
};

TEST_F(FusedOpTest, TheKernelRunsWhereItAccepts) {
  EXPECT_EQ(Run(2), 1009.5);
  EXPECT_FALSE(asked_to_save_);
  EXPECT_EQ(Counted().kernel, 1);
  EXPECT_EQ(Counted().composed + Counted().fallback, 0);
}

TEST_F(FusedOpTest, ARefusalIsComposedAndCounted) {
  EXPECT_EQ(Run(3), 9.5);
  EXPECT_EQ(Counted().fallback, 1);
  EXPECT_EQ(Counted().composed + Counted().kernel, 0);
}

TEST_F(FusedOpTest, ARefusalIsAnErrorUnderStrict) {
  SetFusedPolicy({.enabled = true, .strict = true});
  EXPECT_EQ(Run(2), 1009.5);
  try {
    Run(3);
    FAIL() << "no error";
  } catch (const TensorError& error) {
    EXPECT_EQ(error.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(std::string(error.what()).find("'test_square'"), std::string::npos);
  }
}

TEST_F(FusedOpTest, FusedOffComposesEverywhere) {
  SetFusedPolicy({.enabled = false, .strict = true});
  EXPECT_EQ(Run(2), 9.5);
  EXPECT_EQ(Run(3), 9.5);
  EXPECT_EQ(Counted().composed, 2);
  EXPECT_EQ(Counted().fallback, 0);
}

TEST_F(FusedOpTest, WithoutAKernelItIsComposed) {
  SquareOp().Unregister(DeviceType::kCpu);
  EXPECT_EQ(Run(2), 9.5);
  EXPECT_EQ(Counted().composed, 1);
}

TEST_F(FusedOpTest, TheKernelsDerivativeIsUsed) {
  const Function f = [](std::span<const Var> x) { return SquareOp()(x, 0.5); };
  const Tensor inputs[] = {Uniform({4}, 1)};
  EXPECT_LT(FirstDerivativeError(f, inputs), 1e-8);
  Tape tape;
  const Var x = tape.Leaf(inputs[0]);
  SquareOp()({&x, 1}, 0.5);
  EXPECT_TRUE(asked_to_save_);
  EXPECT_EQ(tape.size(), 1);
}

// A kernel that adds is given what has flowed back, once something has, and what it returns is all.
TEST_F(FusedOpTest, AKernelAddsToWhatHasFlowedBack) {
  std::vector<bool> given;
  SquareOp().Register(DeviceType::kCpu,
                      {.accepts = [](std::span<const Tensor>, const double&) { return true; },
                       .forward = [](std::span<const Tensor> inputs, const double&,
                                     std::vector<Tensor>*) -> std::vector<Tensor> {
                         return {Square(inputs[0]).value()};
                       },
                       .backward = {},
                       .backward_onto =
                           [&given](std::span<const Tensor> inputs, const double&,
                                    std::span<const Tensor>, std::span<const Tensor> gradients,
                                    const std::vector<bool>&, std::span<const Tensor> so_far) {
                             given.push_back(so_far[0].defined());
                             const Var own = Mul(Scale(inputs[0], 2), gradients[0]);
                             return std::vector<Tensor>{
                                 (so_far[0].defined() ? Add(Var(so_far[0]), own) : own).value()};
                           }});
  const Function f = [](std::span<const Var> x) -> std::vector<Var> {
    const Var y = SquareOp()(x, 0)[0];
    return {y, SquareOp()({&y, 1}, 0)[0], Mul(x[0], x[0])};
  };
  const Tensor inputs[] = {Uniform({4}, 1)};
  EXPECT_LT(FirstDerivativeError(f, inputs), 1e-8);
  // y's own seed has flowed into it, and the product's gradient into x.
  EXPECT_EQ(std::set<bool>(given.begin(), given.end()), std::set<bool>{true});

  given.clear();
  Tape tape;
  const Var x = tape.Leaf(inputs[0]), y = SquareOp()({&x, 1}, 0)[0];
  const Tensor one = Tensor::Full({4}, 1, DType::kF64);
  EXPECT_EQ(tape.Gradient({&y, 1}, {&one, 1}, {&x, 1})[0].ToDoubles(),
            Scale(Var(inputs[0]), 2).value().ToDoubles());
  EXPECT_EQ(given, std::vector<bool>{false});
}

TEST_F(FusedOpTest, TheDerivativeOutlivesTheRegistration) {
  Tape tape;
  const Var x = tape.Leaf(Uniform({4}, 1));
  const Var y = SquareOp()({&x, 1}, 0.5)[0];
  SquareOp().Unregister(DeviceType::kCpu);
  const Tensor one = Tensor::Full({4}, 1, DType::kF64);
  EXPECT_EQ(tape.Gradient({&y, 1}, {&one, 1}, {&x, 1})[0].ToDoubles(),
            Scale(x, 2).value().ToDoubles());
}

TEST_F(FusedOpTest, AKernelsGradientCannotBeRecorded) {
  Tape tape;
  const Var x = tape.Leaf(Uniform({4}, 1)), one(Tensor::Full({4}, 1, DType::kF64));
  const Var y = SquareOp()({&x, 1}, 0.5)[0];
  EXPECT_THROW(tape.GradientRecorded({&y, 1}, {&one, 1}, {&x, 1}), TensorError);
}

TEST_F(FusedOpTest, APlannedPolicyIsOfItsThreadAndCountsNothing) {
  SetFusedPolicy({.enabled = false, .strict = true, .deterministic = false});
  EXPECT_FALSE(GetFusedPolicy().deterministic);
  {
    const PlannedFusedPolicy planned({.enabled = true, .strict = false, .deterministic = true});
    EXPECT_TRUE(GetFusedPolicy().deterministic);
    EXPECT_EQ(Run(2), 1009.5);
    EXPECT_EQ(Run(3), 9.5);  // refused
  }
  EXPECT_EQ(Counted().kernel + Counted().composed + Counted().fallback, 0);
  EXPECT_FALSE(GetFusedPolicy().deterministic);
  EXPECT_EQ(Run(2), 9.5);
  EXPECT_EQ(Counted().composed, 1);
}

TEST(BackwardFollowsTest, HoldsForTheThreadAndTheScope) {
  EXPECT_FALSE(BackwardFollows::Now());
  {
    const BackwardFollows outer;
    { const BackwardFollows inner; }
    EXPECT_TRUE(BackwardFollows::Now());
    bool elsewhere = true;
    std::thread([&] { elsewhere = BackwardFollows::Now(); }).join();
    EXPECT_FALSE(elsewhere);
  }
  EXPECT_FALSE(BackwardFollows::Now());
}

}  // namespace
}  // namespace mnemo::testing
