#include <cmath>

#include "src/core/ops.h"
#include "tests/core/mirror_peers.h"
#include "tests/core/op_cases.h"

namespace mnemo::testing {
namespace {

void AddProducts(std::vector<OpCase>& cases) {
  const auto product = [](std::span<const Var> x) -> std::vector<Var> {
    return {MatMul(x[0], x[1])};
  };
  const auto plain = [](const std::vector<Plain>& x) {
    Shape shape = x[0].shape;
    const int64_t inner = shape.back(), m = static_cast<int64_t>(shape.size()) - 1;
    shape.back() = x[1].shape.back();
    return ForEachIndex(shape, [&](const auto& i) {
      double sum = 0;
      for (int64_t k = 0; k < inner; ++k) {
        std::vector<int64_t> a = i, b = i;
        a[m] = k;
        b[m - 1] = k;
        sum += x[0](a) * x[1](b);
      }
      return sum;
    });
  };
  struct Shapes {
    Shape a, b;
  };
  for (const Shapes& s :
       {Shapes{{3, 5}, {5, 4}}, Shapes{{2, 3, 5}, {2, 5, 1}}, Shapes{{2, 3, 1, 5}, {2, 3, 5, 2}},
        Shapes{{2, 3, 4}, {4, 5}}, Shapes{{1, 1}, {1, 1}}, Shapes{{3, 0}, {0, 2}},
        Shapes{{2, 0, 3}, {2, 3, 4}}}) {
    cases.push_back({Primitive::kMatMul,
                     ToString(s.a) + " times " + ToString(s.b),
                     {Uniform(s.a, cases.size()), Uniform(s.b, cases.size() + 5)},
                     product,
                     plain,
                     30});
  }
  for (const Shapes& s : {Shapes{{3, 5}, {5, 4}}, Shapes{{2, 3, 1}, {2, 1, 4}},
                          Shapes{{2, 1, 3, 5}, {2, 1, 5, 4}}, Shapes{{2, 3, 4}, {4, 5}}}) {
    Shape c = s.a;
    c.back() = s.b.back();
    cases.push_back({Primitive::kAddMatMul,
                     ToString(s.a) + " times " + ToString(s.b),
                     {Uniform(c, 1), Uniform(s.a, 2), Uniform(s.b, 3)},
                     [](std::span<const Var> x) -> std::vector<Var> {
                       return {AddMatMul(x[0], x[1], x[2], -0.5), AddMatMul(x[0], x[1], x[2])};
                     },
                     [plain](const std::vector<Plain>& x) {
                       std::vector<double> y = plain({x[1], x[2]});
                       for (size_t i = 0; i < y.size(); ++i) y[i] = x[0].values[i] - 0.5 * y[i];
                       return y;
                     },
                     30});
  }
}

void AddScans(std::vector<OpCase>& cases) {
  struct Shapes {
    Shape a, b, result;
  };
  for (const Shapes& s :
       {Shapes{{2, 5, 3}, {2, 5, 3}, {2, 5, 3}}, Shapes{{2, 5, 1}, {2, 5, 3}, {2, 5, 3}},
        Shapes{{1, 1}, {2, 5, 3}, {2, 5, 3}}, Shapes{{5, 3}, {2, 1, 3}, {2, 5, 3}},
        Shapes{{2, 1, 1}, {2, 1, 3}, {2, 1, 3}}, Shapes{{3}, {4, 3}, {4, 3}}}) {
    for (const bool reverse : {false, true}) {
      cases.push_back(
          {Primitive::kLinearScan,
           fmt::format("{} on {}{}", ToString(s.a), ToString(s.b), reverse ? " reverse" : ""),
           {Uniform(s.a, cases.size()), Uniform(s.b, cases.size() + 5)},
           [reverse](std::span<const Var> x) -> std::vector<Var> {
             return {LinearScan(x[0], x[1], reverse)};
           },
           [reverse, shape = s.result](const std::vector<Plain>& x) {
             const size_t axis = shape.size() - 2;
             return ForEachIndex(shape, [&](std::vector<int64_t> i) {
               const int64_t last = i[axis];
               double state = 0;
               const int64_t begin = reverse ? shape[axis] - 1 : 0, step = reverse ? -1 : 1;
               for (int64_t t = begin; t != last + step; t += step) {
                 i[axis] = t;
                 state = x[0](i) * state + x[1](i);
               }
               return state;
             });
           },
           30});
    }
  }
}

void AddSoftmax(std::vector<OpCase>& cases) {
  for (const Shape& shape : {Shape{3, 7}, Shape{2, 3, 1}, Shape{5}}) {
    cases.push_back({Primitive::kSoftmax,
                     "shape " + ToString(shape),
                     {Uniform(shape, 21, -3, 3)},
                     [](std::span<const Var> x) -> std::vector<Var> { return {Softmax(x[0])}; },
                     [](const std::vector<Plain>& x) {
                       return ForEachIndex(x[0].shape, [&](const auto& i) {
                         double sum = 0;
                         std::vector<int64_t> j = i;
                         for (j.back() = 0; j.back() < x[0].shape.back(); ++j.back()) {
                           sum += std::exp(x[0](j));
                         }
                         return std::exp(x[0](i)) / sum;
                       });
                     },
                     7});
  }
  // Masked entries, and a row in which everything is masked.
  cases.push_back(
      {Primitive::kSoftmax,
       "masked",
       {Uniform({3, 4}, 22)},
       [](std::span<const Var> x) -> std::vector<Var> {
         const double inf = INFINITY;
         const std::vector<double> bias = {0,    0,    -inf, 0, -inf, -inf,
                                           -inf, -inf, -inf, 0, -inf, -inf};
         return {Softmax(Add(x[0], Tensor::FromHost(bias, {3, 4}, x[0].dtype(), x[0].device())))};
       },
       [](const std::vector<Plain>& x) {
         std::vector<double> y(12, 0.0);
         double sum = 0;
         for (const int i : {0, 1, 3}) sum += std::exp(x[0].values[i]);
         for (const int i : {0, 1, 3}) y[i] = std::exp(x[0].values[i]) / sum;
         y[9] = 1;
         return y;
       },
       7});
}

void AddConvolutions(std::vector<OpCase>& cases) {
  struct Sizes {
    int64_t batch, rows, taps, columns;
  };
  for (const Sizes& s : {Sizes{2, 5, 4, 3}, Sizes{1, 1, 4, 2}, Sizes{2, 3, 1, 5}}) {
    const Shape x{s.batch, s.rows + s.taps - 1, s.columns}, w{s.columns, s.taps};
    const Shape y{s.batch, s.rows, s.columns};
    cases.push_back(
        {Primitive::kDepthwiseConv,
         fmt::format("{} rows, {} taps", s.rows, s.taps),
         {Uniform(x, 23), Uniform(w, 24)},
         [](std::span<const Var> v) -> std::vector<Var> { return {DepthwiseConv(v[0], v[1])}; },
         [y, s](const std::vector<Plain>& v) {
           return ForEachIndex(y, [&](const auto& i) {
             double sum = 0;
             for (int64_t j = 0; j < s.taps; ++j) {
               sum += v[1]({i[2], j}) * v[0]({i[0], i[1] + j, i[2]});
             }
             return sum;
           });
         },
         20});
    cases.push_back({Primitive::kDepthwiseConvWeightGrad,
                     fmt::format("{} rows, {} taps", s.rows, s.taps),
                     {Uniform(x, 25), Uniform(y, 26)},
                     [](std::span<const Var> v) -> std::vector<Var> {
                       return {DepthwiseConvWeightGrad(v[0], v[1])};
                     },
                     [w, s](const std::vector<Plain>& v) {
                       return ForEachIndex(w, [&](const auto& i) {
                         double sum = 0;
                         for (int64_t b = 0; b < s.batch; ++b) {
                           for (int64_t t = 0; t < s.rows; ++t) {
                             sum += v[1]({b, t, i[0]}) * v[0]({b, t + i[1], i[0]});
                           }
                         }
                         return sum;
                       });
                     },
                     20});
  }
}

void AddGathers(std::vector<OpCase>& cases) {
  const std::vector<int32_t> ids = {2, 0, 2, 3, 2}, columns = {1, -1, 0, 7, 2};
  const auto rows = [ids](const Var& x) { return Tensor::FromHost(ids, {5}, x.device()); };
  const auto places = [columns](const Var& x) {
    return Tensor::FromHost(columns, {5}, x.device());
  };
  cases.push_back(
      {Primitive::kGatherRows,
       "repeated and unused",
       {Uniform({4, 3}, 27)},
       [rows](std::span<const Var> x) -> std::vector<Var> {
         return {GatherRows(x[0], rows(x[0]))};
       },
       [ids](const std::vector<Plain>& x) {
         return ForEachIndex({5, 3}, [&](const auto& i) { return x[0]({ids[i[0]], i[1]}); });
       },
       3});
  cases.push_back({Primitive::kScatterAddRows,
                   "repeated and unused",
                   {Uniform({5, 3}, 28)},
                   [rows](std::span<const Var> x) -> std::vector<Var> {
                     return {ScatterAddRows(x[0], rows(x[0]), 4)};
                   },
                   [ids](const std::vector<Plain>& x) {
                     return ForEachIndex({4, 3}, [&](const auto& i) {
                       double sum = 0;
                       for (int64_t n = 0; n < 5; ++n) {
                         if (ids[n] == i[0]) sum += x[0]({n, i[1]});
                       }
                       return sum;
                     });
                   },
                   3});
  cases.push_back({Primitive::kPickColumns,
                   "some outside",
                   {Uniform({5, 3}, 29)},
                   [places](std::span<const Var> x) -> std::vector<Var> {
                     return {PickColumns(x[0], places(x[0]))};
                   },
                   [columns](const std::vector<Plain>& x) {
                     return ForEachIndex({5, 1}, [&](const auto& i) {
                       const int32_t id = columns[i[0]];
                       return id >= 0 && id < 3 ? x[0]({i[0], id}) : 0.0;
                     });
                   }});
  cases.push_back({Primitive::kPlaceColumns,
                   "some outside",
                   {Uniform({5, 1}, 30)},
                   [places](std::span<const Var> x) -> std::vector<Var> {
                     return {PlaceColumns(x[0], places(x[0]), 3)};
                   },
                   [columns](const std::vector<Plain>& x) {
                     return ForEachIndex({5, 3}, [&](const auto& i) {
                       return columns[i[0]] == i[1] ? x[0]({i[0], 0}) : 0.0;
                     });
                   }});
}

// What all peers hold, through a part's computation, to a sum that all hold: only together do the
// two have a derivative that differences on one rank show.
void AddPeers(std::vector<OpCase>& cases) {
  static MirrorPeers peers(3);
  const auto expected = [](const std::vector<Plain>& x) {
    return ForEachIndex({4, 3}, [&](const auto& i) { return 3 * std::tanh(x[0](i)) * x[1](i); });
  };
  const auto run = [](std::span<const Var> x) -> std::vector<Var> {
    const Var a = SpreadToPeers(x[0], peers), b = SpreadToPeers(x[1], peers);
    return {SumOverPeers(Mul(Tanh(a), b), peers), Mul(x[0], SumOverPeers(Square(a), peers))};
  };
  for (const Primitive primitive : {Primitive::kSpreadToPeers, Primitive::kSumOverPeers}) {
    cases.push_back({primitive,
                     "into parts and back",
                     {Uniform({4, 3}, 31), Uniform({4, 3}, 32)},
                     run,
                     expected});
  }
}

}  // namespace

std::vector<OpCase> StructuredCases() {
  std::vector<OpCase> cases;
  AddProducts(cases);
  AddScans(cases);
  AddSoftmax(cases);
  AddConvolutions(cases);
  AddGathers(cases);
  AddPeers(cases);
  return cases;
}

}  // namespace mnemo::testing
