#include "tests/core/backend_test_util.h"

namespace mnemo {
namespace {

class Structured : public BackendTest {};
INSTANTIATE_TEST_SUITE_P(Cpu, Structured, testing::Values(DType::kF32, DType::kF64), DTypeName);

TEST_P(Structured, LinearScan) {
  for (const Shape& shape : {Shape{2, 9, 13}, Shape{3, 2, 5, 300}, Shape{1, 1}, Shape{40, 1}}) {
    for (bool reverse : {false, true}) {
      for (Layout la : kLayouts) {
        for (Layout lb : kLayouts) {
          for (Layout lo : kOutputLayouts) {
            Tensor a = RandomInput(la, shape, dtype(), "a", 0.5);
            Tensor b = RandomInput(lb, shape, dtype(), "b");
            Tensor out = Poisoned(shape, dtype(), lo);
            backend().LinearScan(a, b, reverse, out);
            std::vector<double> x = Values(a), y = Values(b), want(x.size()), bound(x.size());
            int64_t columns = shape.back(), steps = shape[shape.size() - 2];
            for (size_t i = 0; i < x.size() / steps; ++i) {
              double state = 0, error = 0;
              for (int64_t t = 0; t < steps; ++t) {
                int64_t row = i / columns * steps + (reverse ? steps - 1 - t : t);
                int64_t at = row * columns + i % columns;
                double product = x[at] * state;
                state = product + y[at];
                error = std::abs(x[at]) * error + Tiny(dtype()) +
                        epsilon() * (std::abs(product) + std::abs(state));
                want[at] = state;
                bound[at] = error;
              }
            }
            ExpectNear(
                out, want, [&](size_t i) { return bound[i]; }, ToString(shape));
          }
        }
      }
    }
  }
}

TEST_P(Structured, LinearScanWithOneDecayPerStep) {  // a [T, 1] over the columns
  Tensor a = RandomInput(Layout::kContiguous, {6, 1}, dtype(), "a").BroadcastTo({6, 20});
  Tensor b = RandomInput(Layout::kContiguous, {6, 20}, dtype(), "b");
  Tensor out = Poisoned({6, 20}, dtype()), want = Poisoned({6, 20}, dtype());
  backend().LinearScan(a, b, false, out);
  backend().LinearScan(a.Clone(), b, false, want);
  EXPECT_EQ(Values(out), Values(want));
  backend().LinearScan(a, b, false, b);  // in place
  EXPECT_EQ(Values(b), Values(want));
}

struct ConvCase {
  int64_t batch, steps, width, taps;
};
constexpr ConvCase kConvCases[] = {{2, 7, 9, 4}, {1, 1, 1, 1}, {3, 5, 130, 3}, {1, 1100, 4, 4}};

TEST_P(Structured, DepthwiseConv) {
  for (const ConvCase& c : kConvCases) {
    for (Layout layout : kLayouts) {
      for (Layout lo : kOutputLayouts) {
        Tensor x = RandomInput(layout, {c.batch, c.steps + c.taps - 1, c.width}, dtype(), "x");
        Tensor w = RandomInput(layout, {c.width, c.taps}, dtype(), "w");
        Tensor out = Poisoned({c.batch, c.steps, c.width}, dtype(), lo);
        backend().DepthwiseConv(x, w, out);
        std::vector<double> xv = Values(x), wv = Values(w), want(out.elements());
        std::vector<double> size(out.elements());
        for (size_t i = 0; i < want.size(); ++i) {
          int64_t d = i % c.width, t = i / c.width % c.steps, b = i / c.width / c.steps;
          for (int64_t j = 0; j < c.taps; ++j) {
            double term =
                wv[d * c.taps + j] * xv[(b * (c.steps + c.taps - 1) + t + j) * c.width + d];
            want[i] += term;
            size[i] += std::abs(term);
          }
        }
        ExpectNear(
            out, want, [&](size_t i) { return c.taps * epsilon() * size[i]; }, "conv");
      }
    }
  }
}

TEST_P(Structured, DepthwiseConvWeightGrad) {
  for (const ConvCase& c : kConvCases) {
    for (Layout layout : kLayouts) {
      Tensor x = RandomInput(layout, {c.batch, c.steps + c.taps - 1, c.width}, dtype(), "x");
      Tensor g = RandomInput(layout, {c.batch, c.steps, c.width}, dtype(), "g");
      Tensor out = Poisoned({c.width, c.taps}, dtype());
      backend().DepthwiseConvWeightGrad(x, g, out);
      std::vector<double> xv = Values(x), gv = Values(g), want(out.elements());
      std::vector<double> size(out.elements());
      for (size_t i = 0; i < gv.size(); ++i) {
        int64_t d = i % c.width, t = i / c.width % c.steps, b = i / c.width / c.steps;
        for (int64_t j = 0; j < c.taps; ++j) {
          double term = gv[i] * xv[(b * (c.steps + c.taps - 1) + t + j) * c.width + d];
          want[d * c.taps + j] += term;
          size[d * c.taps + j] += std::abs(term);
        }
      }
      ExpectNear(
          out, want, [&](size_t i) { return 129 * epsilon() * size[i]; }, "weight grad");
    }
  }
}

TEST_P(Structured, GatherAndScatterRows) {
  std::vector<int32_t> ids = {3, 0, 3, 6, 2, 3};
  Tensor index = Tensor::FromHost(ids, {6});
  for (int64_t width : {1, 5, 150}) {
    for (Layout layout : kLayouts) {
      for (Layout lo : kOutputLayouts) {
        Tensor table = RandomInput(layout, {7, width}, dtype(), "table");
        Tensor out = Poisoned({6, width}, dtype(), lo);
        backend().GatherRows(table, index, out);
        std::vector<double> from = Values(table), got = Values(out);
        for (int64_t i = 0; i < 6 * width; ++i) {
          ASSERT_EQ(got[i], from[ids[i / width] * width + i % width]);
        }
        Tensor rows = RandomInput(layout, {6, width}, dtype(), "rows");
        Tensor sums = Poisoned({7, width}, dtype(), lo);
        backend().ScatterAddRows(rows, index, sums);
        std::vector<double> values = Values(rows), want(7 * width), size(7 * width);
        for (int64_t i = 0; i < 6 * width; ++i) {
          want[ids[i / width] * width + i % width] += values[i];
          size[ids[i / width] * width + i % width] += std::abs(values[i]);
        }
        ExpectNear(
            sums, want, [&](size_t i) { return 3 * epsilon() * size[i]; }, "scatter");
      }
    }
  }
}

TEST_P(Structured, PickAndPlaceColumns) {
  std::vector<int32_t> ids = {0, 4, -1, 5, 2};
  Tensor index = Tensor::FromHost(ids, {5});
  for (Layout layout : kLayouts) {
    for (Layout lo : kOutputLayouts) {
      Tensor x = RandomInput(layout, {5, 5}, dtype(), "x");
      Tensor out = Poisoned({5, 1}, dtype(), lo), placed = Poisoned({5, 5}, dtype(), lo);
      backend().PickColumns(x, index, out);
      backend().PlaceColumns(RandomInput(layout, {5, 1}, dtype(), "v"), index, placed);
      std::vector<double> from = Values(x), picked = Values(out), p = Values(placed);
      std::vector<double> v = Values(RandomInput(layout, {5, 1}, dtype(), "v"));
      for (int n = 0; n < 5; ++n) {
        bool inside = ids[n] >= 0 && ids[n] < 5;
        EXPECT_EQ(picked[n], inside ? from[n * 5 + ids[n]] : 0);
        for (int c = 0; c < 5; ++c) EXPECT_EQ(p[n * 5 + c], c == ids[n] ? v[n] : 0);
      }
    }
  }
}

TEST_P(Structured, AdamW) {
  int64_t n = 1003;
  AdamWStep s{0.01, 0.9, 0.99, 1e-8, 0.1, 1 - 0.9 * 0.9, 1 - 0.99 * 0.99, 0.5};
  Tensor g = RandomInput(Layout::kContiguous, {n}, dtype(), "g");
  Tensor p = RandomInput(Layout::kContiguous, {n}, dtype(), "p");
  Tensor m = RandomInput(Layout::kContiguous, {n}, dtype(), "m", 0.1);
  Tensor v = RandomInput(Layout::kContiguous, {n}, dtype(), "v", 0.1);
  backend().Binary(BinaryOp::kMul, v, v, v);
  std::vector<double> gv = Values(g), pv = Values(p), mv = Values(m), vv = Values(v);
  std::vector<double> update(n);
  for (int64_t i = 0; i < n; ++i) {
    double scaled = gv[i] * s.gradient_scale;
    mv[i] = s.beta1 * mv[i] + (1 - s.beta1) * scaled;
    vv[i] = s.beta2 * vv[i] + (1 - s.beta2) * scaled * scaled;
    update[i] =
        mv[i] / s.correction1 / (std::sqrt(vv[i] / s.correction2) + s.epsilon) + s.decay * pv[i];
    pv[i] -= s.rate * update[i];
  }
  backend().AdamW(s, g, p, m, v);
  ExpectNear(
      m, mv, [&](size_t) { return 2 * epsilon(); }, "m");
  ExpectNear(
      v, vv, [&](size_t i) { return 4 * epsilon() * vv[i]; }, "v");
  // A cancelling first moment makes the update's error relative to the terms, of size one.
  auto bound = [&](size_t i) {
    return epsilon() *
           (std::abs(pv[i]) + s.rate * 8 * (1 / std::sqrt(vv[i]) + std::abs(update[i])));
  };
  ExpectNear(p, pv, bound, "p");
}

}  // namespace
}  // namespace mnemo
