// What the tape promises beyond single derivatives: which gradients come back, what is kept, what
// is refused.
#include "src/core/tape.h"

#include <gtest/gtest.h>

#include "src/core/ops.h"
#include "tests/core/gradient_check.h"

namespace mnemo::testing {
namespace {

Tensor Scalar(double value) { return Tensor::Full({}, value, DType::kF64); }

std::vector<Tensor> GradientOf(Tape& tape, const Var& y, const std::vector<Var>& wrt,
                               bool retain = false) {
  const Tensor seed = Tensor::Full(y.shape(), 1, y.dtype());
  return tape.Gradient({&y, 1}, {&seed, 1}, wrt, retain);
}

TEST(Tape, UnusedInputsHaveNoGradient) {
  Tape tape;
  const Var x = tape.Leaf(Scalar(2)), unused = tape.Leaf(Scalar(3));
  const Var later = Mul(x, unused);  // computed, but not part of the output
  const std::vector<Tensor> g = GradientOf(tape, Square(x), {x, unused, later});
  EXPECT_EQ(g[0].Item(), 4);
  EXPECT_FALSE(g[1].defined());
  EXPECT_FALSE(g[2].defined());
}

TEST(Tape, UsesAddUp) {
  Tape tape;
  const Var x = tape.Leaf(Scalar(3));
  const Var y = Add(x, x);          // the same gradient tensor reaches x twice
  const Var z = Mul(y, Mul(x, y));  // 4 x^3
  EXPECT_EQ(GradientOf(tape, Add(z, x), {x})[0].Item(), 12 * 9 + 1);
}

TEST(Tape, GradientsOfInteriorVarsAndOfOutputsThemselves) {
  Tape tape;
  const Var x = tape.Leaf(Scalar(3));
  const Var y = Square(x), z = Square(y);
  const std::vector<Tensor> g = GradientOf(tape, z, {z, y, x}, true);
  EXPECT_EQ(g[0].Item(), 1);
  EXPECT_EQ(g[1].Item(), 18);
  EXPECT_EQ(g[2].Item(), 108);
  EXPECT_EQ(GradientOf(tape, x, {x}, true)[0].Item(), 1);
  // An interior Var that is both an output and on the way to another.
  const Var outputs[] = {y, z};
  const Tensor seeds[] = {Scalar(10), Scalar(1)};
  const Var wrt[] = {y, x};
  const std::vector<Tensor> both = tape.Gradient(outputs, seeds, wrt);
  EXPECT_EQ(both[0].Item(), 28);
  EXPECT_EQ(both[1].Item(), 28 * 6);
}

TEST(Tape, UndefinedAndUntrackedOutputsCountForNothing) {
  Tape tape;
  const Var x = tape.Leaf(Scalar(3));
  const Var outputs[] = {Square(x), Mul(x, x), Var(Scalar(1))};
  const Tensor seeds[] = {Tensor(), Scalar(2), Scalar(5)};
  EXPECT_EQ(tape.Gradient(outputs, seeds, {&x, 1})[0].Item(), 12);
}

// One output of a primitive with several, the rest unreached: they count as zeros.
TEST(Tape, UnreachedOutputsOfAPrimitiveAreZeros) {
  Tape tape;
  const Var x = tape.Leaf(Uniform({4}, 1));
  const int64_t sizes[] = {1, 3};
  const std::vector<Tensor> g = GradientOf(tape, Split(x, 0, sizes)[1], {x});
  EXPECT_EQ(g[0].ToDoubles(), (std::vector<double>{0, 1, 1, 1}));
}

TEST(Tape, AccumulationNeverWritesIntoWhatOthersSee) {
  Tape tape;
  const Var x = tape.Leaf(Uniform({3}, 1));
  const Var y = Reshape(x, {3, 1}), sum = Add(Reshape(y, {3}), x);
  const Tensor seed = Tensor::Full({3}, 1, DType::kF64);
  const Var outputs[] = {sum, sum};
  const Tensor seeds[] = {seed, seed};
  const Var wrt[] = {y, x};
  const std::vector<Tensor> g = tape.Gradient(outputs, seeds, wrt);
  EXPECT_EQ(seed.ToDoubles(), (std::vector<double>{1, 1, 1}));
  EXPECT_EQ(g[0].ToDoubles(), (std::vector<double>{2, 2, 2}));
  EXPECT_EQ(g[1].ToDoubles(), (std::vector<double>{4, 4, 4}));
}

// Products add to what has flowed back so far where nobody else sees it: x is used four times, and
// the gradient of `early`, asked for while more flows into x, shows what was there.
TEST(Tape, ProductsAddToWhatHasFlowedBack) {
  const Tensor inputs[] = {Uniform({2, 3, 4}, 1), Uniform({4, 5}, 2), Uniform({4, 4}, 3)};
  const Function f = [](std::span<const Var> x) -> std::vector<Var> {
    const Var early = Affine(x[0], 1.5, 0);
    const Var again = AddMatMul(early, early, x[2]);
    return {MatMul(early, x[1]), again, MatMul(again, x[2]), Mul(early, early)};
  };
  EXPECT_LT(FirstDerivativeError(f, inputs), 1e-8);

  Tape tape;
  const Var x = tape.Leaf(inputs[0]), w = tape.Leaf(inputs[1]);
  const Var early = Affine(x, 2, 0), y = MatMul(early, w);
  const Var outputs[] = {y, early}, wrt[] = {early, x};
  const Tensor seeds[] = {Tensor::Full(y.shape(), 1, DType::kF64), Uniform({2, 3, 4}, 4)};
  const std::vector<double> seed = seeds[1].ToDoubles();
  const std::vector<Tensor> gradients = tape.Gradient(outputs, seeds, wrt);
  const Var ones(Tensor::Full(y.shape(), 1, DType::kF64));
  const std::vector<double> product = MatMul(ones, Transpose(Var(inputs[1]))).value().ToDoubles();
  const std::vector<double> got = gradients[0].ToDoubles(), back = gradients[1].ToDoubles();
  for (size_t i = 0; i < seed.size(); ++i) {
    EXPECT_DOUBLE_EQ(got[i], seed[i] + product[i]);
    EXPECT_DOUBLE_EQ(back[i], 2 * got[i]);
  }
  EXPECT_EQ(seeds[1].ToDoubles(), seed);
}

TEST(Tape, RetainedTapesAreDifferentiatedAgain) {
  Tape tape;
  const Var x = tape.Leaf(Scalar(2));
  const Var y = Exp(Square(x));
  const double first = GradientOf(tape, y, {x}, true)[0].Item();
  EXPECT_EQ(GradientOf(tape, y, {x})[0].Item(), first);
}

TEST(Tape, ThirdDerivatives) {
  Tape tape;
  const Var x = tape.Leaf(Scalar(1.5));
  const Var one(Scalar(1));
  Var y = Square(Square(x));
  for (const double expected : {4 * 1.5 * 1.5 * 1.5, 12 * 1.5 * 1.5, 24 * 1.5}) {
    y = tape.GradientRecorded({&y, 1}, {&one, 1}, {&x, 1})[0];
    EXPECT_NEAR(y.value().Item(), expected, 1e-13);
  }
}

// Only what leads to `wrt` is differentiated: a derivative with respect to an interior Var records
// nothing for what came before it.
TEST(Tape, StopsAtWhatIsAskedFor) {
  Tape tape;
  Var x = tape.Leaf(Scalar(1));
  for (int i = 0; i < 100; ++i) x = Sigmoid(x);
  const Var y = Square(x), one(Scalar(1));
  const int64_t before = tape.size();
  tape.GradientRecorded({&y, 1}, {&one, 1}, {&x, 1});
  EXPECT_LT(tape.size() - before, 10);
}

TEST(Tape, ConstantsAreNotRecorded) {
  Tape tape;
  const Var x = tape.Leaf(Scalar(2)), c(Scalar(3));
  EXPECT_FALSE(Exp(c).tracked());
  EXPECT_FALSE(Mul(x, c).Detach().tracked());
  EXPECT_FALSE(Step(x).tracked());
  EXPECT_EQ(tape.size(), 1);
}

TEST(TapeDeathTest, Misuse) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Tape tape, other;
  const Var x = tape.Leaf(Scalar(2)), z = other.Leaf(Scalar(2));
  EXPECT_DEATH(Add(x, z), "two tapes");
  const Var y = Square(x);
  EXPECT_DEATH(GradientOf(other, y, {z}), "another tape");
  EXPECT_DEATH(GradientOf(tape, y, {z}), "not tracked on this tape");
  EXPECT_DEATH(GradientOf(tape, y, {Var(Scalar(1))}), "not tracked on this tape");
  GradientOf(tape, y, {x});
  EXPECT_DEATH(GradientOf(tape, y, {x}), "released");
}

TEST(Tape, ShapeErrorsNameTheOperation) {
  Tape tape;
  const Var x = tape.Leaf(Uniform({2, 3}, 1)), y = tape.Leaf(Uniform({4, 2}, 2));
  const auto message = [](const std::function<void()>& f) -> std::string {
    try {
      f();
    } catch (const TensorError& error) {
      return error.what();
    }
    return "no error";
  };
  const Tensor wrong = Tensor::Full({3}, 1, DType::kF64);
  EXPECT_NE(message([&] { Add(x, y); }).find("add: shapes [2, 3] and [4, 2]"), std::string::npos);
  EXPECT_NE(message([&] { MatMul(x, y); }).find("matmul"), std::string::npos);
  EXPECT_NE(message([&] { Slice(x, 2, 0, 1); }).find("slice: axis 2"), std::string::npos);
  EXPECT_NE(message([&] { Permute(x, {0, 0}); }).find("appears twice"), std::string::npos);
  EXPECT_NE(message([&] { Add(x, Cast(y, DType::kF32)); }).find("f32"), std::string::npos);
  EXPECT_NE(message([&] {
              tape.Gradient({&x, 1}, {&wrong, 1}, {&x, 1});
            }).find("output 0"),
            std::string::npos);
  EXPECT_NE(message([&] {
              GatherRows(x, Tensor::FromHost(std::vector<int32_t>{0, 2}, {2}));
            }).find("id 2 at position 1 is outside [0, 2)"),
            std::string::npos);
}

std::vector<Var> TwoLayers(std::span<const Var> x) {
  const Var h = Gelu(MatMul(x[0], x[1]));
  return {MatMul(h, x[2]), Sum(h, -1)};
}

TEST(Rematerialized, IsTheSameBitForBit) {
  const std::vector<Tensor> inputs = {Uniform({7, 5}, 1), Uniform({5, 9}, 2), Uniform({9, 3}, 3)};
  const Function again = [](std::span<const Var> x) { return Rematerialized(&TwoLayers, x); };
  const Function nested = [&again](std::span<const Var> x) { return Rematerialized(again, x); };
  const Evaluation direct = Evaluate(&TwoLayers, inputs);
  for (const Function& f : {again, nested}) {
    const Evaluation result = Evaluate(f, inputs);
    for (size_t i = 0; i < direct.outputs.size(); ++i) {
      EXPECT_EQ(result.outputs[i].ToDoubles(), direct.outputs[i].ToDoubles());
    }
    for (size_t i = 0; i < direct.gradients.size(); ++i) {
      EXPECT_EQ(result.gradients[i].ToDoubles(), direct.gradients[i].ToDoubles());
    }
  }
}

TEST(Rematerialized, SomeInputsAndOutputsOnly) {
  Tape tape;
  const Var x = tape.Leaf(Uniform({7, 5}, 1)), w = tape.Leaf(Uniform({9, 3}, 3));
  const Var inputs[] = {x, Var(Uniform({5, 9}, 2)), w};
  const std::vector<Var> direct = TwoLayers(inputs), again = Rematerialized(&TwoLayers, inputs);
  EXPECT_EQ(GradientOf(tape, again[1], {x}, true)[0].ToDoubles(),
            GradientOf(tape, direct[1], {x}, true)[0].ToDoubles());
  EXPECT_FALSE(GradientOf(tape, again[1], {w}, true)[0].defined());
}

TEST(Rematerialized, KeepsNothingOfTheBody) {
  Tape tape;
  const Var x = tape.Leaf(Uniform({7, 5}, 1));
  const Var inputs[] = {x, Var(Uniform({5, 9}, 2)), Var(Uniform({9, 3}, 3))};
  Rematerialized(&TwoLayers, inputs);
  EXPECT_EQ(tape.size(), 1);
}

TEST(RematerializedDeathTest, ItsGradientCannotBeRecorded) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Tape tape;
  const Var x = tape.Leaf(Scalar(2)), one(Scalar(1));
  const auto body = [](std::span<const Var> v) -> std::vector<Var> { return {Square(v[0])}; };
  const Var y = Rematerialized(body, {&x, 1})[0];
  EXPECT_DEATH(tape.GradientRecorded({&y, 1}, {&one, 1}, {&x, 1}), "not recordable");
}

}  // namespace
}  // namespace mnemo::testing
