#include "src/core/ops.h"
#include "tests/core/op_cases.h"

namespace mnemo::testing {
namespace {

void AddSums(std::vector<OpCase>& cases) {
  struct Shapes {
    Shape from, to;
  };
  for (const Shapes& s :
       {Shapes{{3, 4, 5}, {5}}, Shapes{{3, 4, 5}, {3, 1, 5}}, Shapes{{3, 4, 5}, {4, 1}},
        Shapes{{7}, {}}, Shapes{{1, 3}, {3}}, Shapes{{0, 3}, {3}}}) {
    cases.push_back(
        {Primitive::kSumTo,
         ToString(s.from) + " to " + ToString(s.to),
         {Uniform(s.from, cases.size())},
         [to = s.to](std::span<const Var> x) -> std::vector<Var> { return {SumTo(x[0], to)}; },
         [to = s.to](const std::vector<Plain>& x) {
           Plain sums{to, std::vector<double>(ElementCount(to), 0.0)};
           // Each source element goes where broadcasting would have read it from.
           const Plain places{to, ForEachIndex(to, [n = 0.0](const auto&) mutable { return n++; })};
           ForEachIndex(x[0].shape, [&](const auto& i) {
             sums.values[static_cast<size_t>(places(i))] += x[0](i);
             return 0.0;
           });
           return sums.values;
         },
         60});
  }
  cases.push_back({Primitive::kSumTo,
                   "sum, mean and total",
                   {Uniform({3, 5}, 11)},
                   [](std::span<const Var> x) -> std::vector<Var> {
                     return {Sum(x[0], 0), Mean(x[0], -1), SumAll(x[0])};
                   },
                   [](const std::vector<Plain>& x) {
                     return ForEachIndex({1, 5}, [&](const auto& i) {
                       return x[0]({0, i[1]}) + x[0]({1, i[1]}) + x[0]({2, i[1]});
                     });
                   },
                   15});
  for (const Shapes& s : {Shapes{{5}, {3, 4, 5}}, Shapes{{3, 1}, {2, 3, 4}}, Shapes{{}, {2, 2}},
                          Shapes{{1, 1}, {1, 1, 1}}}) {
    cases.push_back({Primitive::kBroadcastTo,
                     ToString(s.from) + " to " + ToString(s.to),
                     {Uniform(s.from, cases.size())},
                     [to = s.to](std::span<const Var> x) -> std::vector<Var> {
                       // Times something that differs between the copies.
                       const Var weights(Uniform(to, 5).To(x[0].dtype()).To(x[0].device()));
                       return {BroadcastTo(x[0], to), Mul(BroadcastTo(x[0], to), weights)};
                     },
                     [to = s.to](const std::vector<Plain>& x) {
                       return ForEachIndex(to, [&](const auto& i) { return x[0](i); });
                     },
                     12});
  }
}

void AddViews(std::vector<OpCase>& cases) {
  for (const Shape& to : {Shape{6, 4}, Shape{-1}, Shape{4, 3, 2}, Shape{2, 3, 4, 1}}) {
    cases.push_back({Primitive::kReshape,
                     "to " + ToString(to),
                     {Uniform({2, 3, 4}, 12)},
                     [to](std::span<const Var> x) -> std::vector<Var> {
                       return {Reshape(x[0], to), Reshape(Transpose(x[0]), to)};
                     },
                     [](const std::vector<Plain>& x) { return x[0].values; }});
  }
  const auto permute = [](std::span<const Var> x) -> std::vector<Var> {
    return {Permute(x[0], {2, 0, 1}), Permute(x[0], {1, -1, 0}), Transpose(x[0])};
  };
  for (const Shape& shape : {Shape{2, 3, 4}, Shape{1, 1, 3}, Shape{2, 0, 3}}) {
    cases.push_back({Primitive::kPermute,
                     "of " + ToString(shape),
                     {Uniform(shape, 13)},
                     permute,
                     [](const std::vector<Plain>& x) {
                       const Shape& s = x[0].shape;
                       return ForEachIndex({s[2], s[0], s[1]}, [&](const auto& i) {
                         return x[0]({i[1], i[2], i[0]});
                       });
                     }});
  }
}

void AddSlices(std::vector<OpCase>& cases) {
  cases.push_back({Primitive::kSlice,
                   "middle, overlapping, whole, empty",
                   {Uniform({3, 5, 2}, 14)},
                   [](std::span<const Var> x) -> std::vector<Var> {
                     return {Slice(x[0], 1, 1, 4), Slice(x[0], -2, 3, 5), Slice(x[0], 0, 0, 3),
                             Slice(x[0], 2, 1, 1)};
                   },
                   [](const std::vector<Plain>& x) {
                     return ForEachIndex({3, 3, 2}, [&](const auto& i) {
                       return x[0]({i[0], i[1] + 1, i[2]});
                     });
                   }});
  cases.push_back(
      {Primitive::kPadSlice,
       "middle, all, from nothing",
       {Uniform({3, 2}, 15), Uniform({3, 0}, 16)},
       [](std::span<const Var> x) -> std::vector<Var> {
         return {PadSlice(x[0], -1, 2, 5), PadSlice(x[0], 0, 0, 3), PadSlice(x[1], 1, 1, 3)};
       },
       [](const std::vector<Plain>& x) {
         return ForEachIndex({3, 5}, [&](const auto& i) {
           return i[1] == 2 || i[1] == 3 ? x[0]({i[0], i[1] - 2}) : 0.0;
         });
       }});
  cases.push_back({Primitive::kSplit,
                   "three, one of them empty, one unused",
                   {Uniform({2, 6, 3}, 17)},
                   [](std::span<const Var> x) -> std::vector<Var> {
                     const int64_t sizes[] = {2, 0, 1, 3}, whole[] = {6};
                     const std::vector<Var> parts = Split(x[0], 1, sizes);
                     return {parts[0], parts[1], parts[3], Split(x[0], 1, whole)[0]};
                   },
                   [](const std::vector<Plain>& x) {
                     return ForEachIndex({2, 2, 3}, [&](const auto& i) { return x[0](i); });
                   }});
  cases.push_back({Primitive::kConcat,
                   "three, one of them twice, one empty",
                   {Uniform({2, 2}, 18), Uniform({2, 3}, 19), Uniform({2, 0}, 20)},
                   [](std::span<const Var> x) -> std::vector<Var> {
                     const Var parts[] = {x[0], x[1], x[2], x[0]};
                     return {Concat(parts, -1), Concat({parts, 1}, 0)};
                   },
                   [](const std::vector<Plain>& x) {
                     return ForEachIndex({2, 7}, [&](const auto& i) {
                       if (i[1] < 2) return x[0](i);
                       return i[1] < 5 ? x[1]({i[0], i[1] - 2}) : x[0]({i[0], i[1] - 5});
                     });
                   }});
}

}  // namespace

std::vector<OpCase> ShapeCases() {
  std::vector<OpCase> cases;
  AddSums(cases);
  AddViews(cases);
  AddSlices(cases);
  return cases;
}

}  // namespace mnemo::testing
