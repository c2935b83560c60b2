#include "tests/core/backend_test_util.h"

namespace mnemo {
namespace {

class Gemm : public BackendTest {
 protected:
  // Runs out = alpha a b + beta out and checks it against plain loops. A sum of k products, each
  // of relative error eps, in any order: k eps sum |a||b|; then alpha, beta and the last addition.
  void Check(const Tensor& a, const Tensor& b, double alpha, double beta, const Tensor& out) {
    std::vector<double> x = Values(a), y = Values(b), before = Values(out);
    int64_t m = a.dim(-2), k = a.dim(-1), n = b.dim(-1);
    int64_t batch = out.elements() / std::max<int64_t>(1, m * n);
    std::vector<double> want(before.size()), bound(before.size());
    for (int64_t i = 0; i < batch * m * n; ++i) {
      int64_t column = i % n, row = i / n % m, which = i / n / m;
      double sum = 0, size = 0;
      for (int64_t j = 0; j < k; ++j) {
        double term = x[(which * m + row) * k + j] * y[(which * k + j) * n + column];
        sum += term;
        size += std::abs(term);
      }
      double old = beta == 0 ? 0 : beta * before[i];
      want[i] = alpha * sum + old;
      bound[i] = epsilon() * ((k + 2) * std::abs(alpha) * size + 2 * std::abs(old)) + Tiny(dtype());
    }
    backend().Gemm(a, b, alpha, beta, out);
    ExpectNear(
        out, want, [&](size_t i) { return bound[i]; },
        fmt::format("{} x {} alpha {} beta {}", ToString(a.shape()), ToString(b.shape()), alpha,
                    beta));
  }
};
INSTANTIATE_TEST_SUITE_P(Cpu, Gemm, testing::Values(DType::kF32, DType::kF64), DTypeName);

struct Sizes {
  int64_t m, n, k;
};
constexpr Sizes kSizes[] = {{1, 1, 1},   {1, 7, 5},    {7, 1, 5},    {5, 7, 1},    {3, 4, 2},
                            {17, 9, 33}, {64, 64, 64}, {31, 65, 20}, {1, 64, 200}, {130, 3, 77}};

// An addend that is not the output, laid out otherwise: read, not written.
TEST_P(Gemm, AddendsApart) {
  const Tensor a = RandomInput(Layout::kContiguous, {5, 7}, dtype(), "a");
  const Tensor b = RandomInput(Layout::kContiguous, {7, 3}, dtype(), "b");
  const Tensor c = RandomInput(Layout::kContiguous, {3, 5}, dtype(), "c").Transpose();
  const std::vector<double> before = c.ToDoubles();
  const Tensor together = c.Contiguous().Clone(), apart = Poisoned({5, 3}, dtype());
  backend().Gemm(a, b, 0.5, 2, together);
  backend().Gemm(a, b, 0.5, 2, c, apart);
  EXPECT_EQ(apart.ToDoubles(), together.ToDoubles());
  EXPECT_EQ(c.ToDoubles(), before);
  backend().Gemm(a, b, 1, 0, Poisoned({5, 3}, dtype()), apart);
  for (const double value : apart.ToDoubles()) EXPECT_FALSE(std::isnan(value));
}

TEST_P(Gemm, ShapesAndTransposes) {
  for (const Sizes& s : kSizes) {
    for (int flags = 0; flags < 8; ++flags) {
      bool ta = flags & 1, tb = flags & 2, tc = flags & 4;
      auto make = [&](int64_t rows, int64_t columns, bool transposed, const char* name) {
        Tensor x =
            RandomInput(Layout::kContiguous,
                        transposed ? Shape{columns, rows} : Shape{rows, columns}, dtype(), name);
        return transposed ? x.Transpose() : x;
      };
      Tensor a = make(s.m, s.k, ta, "a"), b = make(s.k, s.n, tb, "b");
      Tensor out = make(s.m, s.n, tc, "out");
      Check(a, b, 0.5, -2, out);
      Tensor poisoned = Poisoned(tc ? Shape{s.n, s.m} : Shape{s.m, s.n}, dtype());
      Check(a, b, 1, 0, tc ? poisoned.Transpose() : poisoned);  // beta 0 must not read it
    }
  }
}

TEST_P(Gemm, BatchesOfEveryLayout) {
  for (Layout la : kLayouts) {
    for (Layout lb : kLayouts) {
      for (Layout lo : kOutputLayouts) {
        Tensor a = RandomInput(la, {3, 2, 9, 6}, dtype(), "a");
        Tensor b = RandomInput(lb, {3, 2, 6, 11}, dtype(), "b");
        Check(a, b, 1, 0, Poisoned({3, 2, 9, 11}, dtype(), lo));
        Check(a, b, -1, 1, RandomInput(lo, {3, 2, 9, 11}, dtype(), "out"));
      }
    }
  }
}

TEST_P(Gemm, HeadsInterleavedWithTime) {  // [B, T, H, D] seen as [B, H, T, D]
  const int order[] = {0, 2, 1, 3};
  Tensor q = RandomInput(Layout::kContiguous, {2, 10, 3, 8}, dtype(), "q").Permute(order);
  Tensor k = RandomInput(Layout::kContiguous, {2, 10, 3, 8}, dtype(), "k").Permute(order);
  Check(q, k.Transpose(), 0.25, 0, Poisoned({2, 3, 10, 10}, dtype()));
  Check(q.Transpose(), k, 1, 0, Poisoned({2, 3, 8, 8}, dtype()));
}

TEST_P(Gemm, OneRightFactorForTheBatch) {
  Tensor a = RandomInput(Layout::kContiguous, {4, 3, 5, 12}, dtype(), "a");
  Tensor b = RandomInput(Layout::kContiguous, {12, 7}, dtype(), "b").BroadcastTo({4, 3, 12, 7});
  Check(a, b, 1, 0, Poisoned({4, 3, 5, 7}, dtype()));
  Check(a, b, 1, 0, Poisoned({4, 3, 5, 7}, dtype(), Layout::kPermuted));
}

TEST_P(Gemm, ZeroStridesInsideAMatrix) {
  Tensor row = RandomInput(Layout::kContiguous, {1, 6}, dtype(), "row").BroadcastTo({9, 6});
  Tensor column = RandomInput(Layout::kContiguous, {6, 1}, dtype(), "c").BroadcastTo({6, 8});
  Check(row, column, 1, 0, Poisoned({9, 8}, dtype()));
}

TEST_P(Gemm, LargeProductsAreCutIntoPanels) {
  Tensor a = RandomInput(Layout::kContiguous, {600, 90}, dtype(), "a");
  Tensor b = RandomInput(Layout::kContiguous, {90, 70}, dtype(), "b");
  Check(a, b, 1, 0, Poisoned({600, 70}, dtype()));
  Check(b.Transpose(), a.Transpose(), 1, 0, Poisoned({70, 600}, dtype()));
}

TEST_P(Gemm, EmptyInnerDimension) {
  Tensor a = Tensor::Empty({3, 0}, dtype()), b = Tensor::Empty({0, 4}, dtype());
  Check(a, b, 1, 0, Poisoned({3, 4}, dtype()));
  Check(a, b, 1, 2, RandomInput(Layout::kContiguous, {3, 4}, dtype(), "out"));
  backend().Gemm(Tensor::Empty({0, 3}, dtype()), Tensor::Zeros({3, 4}, dtype()), 1, 0,
                 Tensor::Empty({0, 4}, dtype()));
}

TEST_P(Gemm, NanAndInfinityPropagate) {
  Tensor a = Tensor::Full({20, 20}, 1, dtype()), b = Tensor::Full({20, 20}, 1, dtype());
  Store(a, 3 * 20 + 5, std::numeric_limits<double>::quiet_NaN());
  Store(b, 2 * 20 + 7, std::numeric_limits<double>::infinity());
  Tensor out = Tensor::Zeros({20, 20}, dtype());
  backend().Gemm(a, b, 1, 0, out);
  std::vector<double> values = Values(out);
  for (int i = 0; i < 400; ++i) {
    if (i / 20 == 3) {
      EXPECT_TRUE(std::isnan(values[i]));
    } else {
      EXPECT_EQ(values[i], i % 20 == 7 ? std::numeric_limits<double>::infinity() : 20);
    }
  }
}

}  // namespace
}  // namespace mnemo
