// Mixed precision: bf16 activations and matrices, f32 parameters, gradients and memory. Whole
// models against f64 at the same values; what stays f32; what must stay bitwise the same.
#include <gtest/gtest.h>

#include <cmath>

#include "src/core/backend.h"
#include "src/model/sequence_runner.h"
#include "tests/model/tiny_model.h"

namespace mnemo::testing {
namespace {

// Rounding to nearest, of a significand of 8 bits.
constexpr double kUnit = 0x1p-8, kSingleUnit = 0x1p-24;
// Roundings that a loss has seen after a model of two layers: each block stores some 14 tensors
// between x and y (norms, projections, reads, gates and sums), then embedding, norm, head. They are
// independent, and add up like a random walk.
const double kLosses = std::sqrt(2 * 14 + 3) * kUnit;

double Norm(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return std::sqrt(sum);
}

// |a - b| / |b|.
double Distance(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> difference(a.size());
  for (size_t i = 0; i < a.size(); ++i) difference[i] = a[i] - b[i];
  return Norm(difference) / Norm(b);
}

std::vector<double> AllLosses(const StepResult& result) {
  std::vector<double> all;
  for (const auto& row : result.losses) all.insert(all.end(), row.begin(), row.end());
  return all;
}

class MixedPrecisionTest : public ::testing::TestWithParam<int> {
 protected:
  MixedPrecisionTest()
      : model_(AllTinyModels()[GetParam()]),
        mixed_(MixedPrecision(model_.parameters)),
        step_(model_.spec.alignment() == 1 ? 4 : model_.spec.alignment()) {
    options_.batch = 2;
    options_.slices = model_.spec.full_attention() ? std::vector<int64_t>{3 * step_}
                                                   : std::vector<int64_t>{2 * step_, step_};
  }
  std::vector<std::vector<int>> Tokens() const { return RandomTokens(model_.spec, 2, 3 * step_); }

  const TinyModel model_;
  const ParameterSet mixed_;
  const int64_t step_;
  StepOptions options_;
};

// How far a run is from the exact one, in units of its rounding.
struct Distances {
  double losses = 0, all = 0;
  std::vector<double> gradients;  // of each parameter; all: of all of them
};

Distances Measure(const StepResult& run, const StepResult& exact, double unit) {
  Distances result;
  result.losses = Distance(AllLosses(run), AllLosses(exact)) / unit;
  std::vector<double> a, b;
  for (size_t i = 0; i < run.gradients.size(); ++i) {
    const std::vector<double> x = run.gradients[i].ToDoubles();
    const std::vector<double> y = exact.gradients[i].ToDoubles();
    a.insert(a.end(), x.begin(), x.end());
    b.insert(b.end(), y.begin(), y.end());
    result.gradients.push_back(Distance(x, y) / unit);
  }
  result.all = Distance(a, b) / unit;
  return result;
}

// How much a model amplifies a rounding is its own affair (a memory is a recurrence). f32 at the
// same values tells: it rounds at more places, so bf16 should be no further off in units of its
// own. A single parameter, of two elements maybe, may be unlucky.
TEST_P(MixedPrecisionTest, IsAsCloseToDoubleAsItsRoundingAllows) {
  const StepResult exact = RunStep(model_.spec, InDouble(mixed_), Tokens(), options_);
  const ParameterSet values(mixed_.infos(), mixed_.values());
  const StepResult run = RunStep(model_.spec, mixed_, Tokens(), options_);
  const Distances narrow = Measure(run, exact, kUnit);
  const Distances single =
      Measure(RunStep(model_.spec, values, Tokens(), options_), exact, kSingleUnit);
  EXPECT_EQ(run.gradients.flat().dtype(), DType::kF32);
  EXPECT_LE(narrow.losses, 1.5 * single.losses);
  EXPECT_GE(narrow.losses, 0.05 * single.losses);  // it did compute in bf16
  EXPECT_LE(narrow.all, 2 * single.all);
  for (size_t i = 0; i < narrow.gradients.size(); ++i) {
    EXPECT_LE(narrow.gradients[i], 5 * single.gradients[i]) << mixed_.info(i).name;
  }
}

TEST_P(MixedPrecisionTest, DocumentsFollowDoublePrecision) {
  options_.starts = {step_, 2 * step_};
  const StepResult narrow = RunStep(model_.spec, mixed_, Tokens(), options_);
  const StepResult exact = RunStep(model_.spec, InDouble(mixed_), Tokens(), options_);
  EXPECT_LE(Distance(AllLosses(narrow), AllLosses(exact)), kLosses);
}

TEST_P(MixedPrecisionTest, RematerializationIsBitwiseNeutral) {
  options_.policy = Rematerialization::kKeepAll;
  const StepResult kept = RunStep(model_.spec, mixed_, Tokens(), options_);
  for (const Rematerialization policy : {Rematerialization::kUnits, Rematerialization::kSlices}) {
    options_.policy = policy;
    const StepResult again = RunStep(model_.spec, mixed_, Tokens(), options_);
    EXPECT_EQ(kept.losses, again.losses);
    for (size_t i = 0; i < kept.gradients.size(); ++i) {
      EXPECT_EQ(kept.gradients[i].ToFloats(), again.gradients[i].ToFloats())
          << kept.gradients.info(i).name;
    }
  }
}

// The memory's state is f32, rows before convolutions and keys and values are bf16, and the planner
// counts them so.
TEST_P(MixedPrecisionTest, CarriesAreOfTheDtypeThatTheyNeed) {
  const ModelSpec& spec = model_.spec;
  const int64_t slices = spec.full_attention() ? 1 : 3;  // the window is full
  FixedSource source(spec, Tokens(), 1, std::vector<int64_t>(slices, 3 * step_ / slices));
  UnitRunner runner(spec, mixed_, source, spec.layers, {}, nullptr);
  std::vector<Tensor> parts;
  for (int64_t s = 0; s < slices; ++s) parts = runner.Forward({0, s, 0}, parts);
  Carry carry = UnflattenCarry(spec, 3 * step_, std::vector<Var>(parts.begin(), parts.end()));
  int64_t bytes = 0;
  ForEachVar(spec, carry, [&bytes](Var& part) { bytes += part.value().bytes(); });
  if (spec.has_memory()) {
    ForEachVar(spec.rule, carry.memory, [](Var& x) { EXPECT_EQ(x.dtype(), DType::kF32); });
    EXPECT_EQ(carry.conv_q.dtype(), DType::kBF16);
    EXPECT_EQ(carry.conv_v.dtype(), DType::kBF16);
  }
  if (spec.has_window()) {
    EXPECT_EQ(carry.keys.dtype(), DType::kBF16);
    EXPECT_EQ(carry.values.dtype(), DType::kBF16);
  }
  if (!spec.full_attention()) {
    EXPECT_EQ(bytes, CarryBytes(spec, 1, DType::kBF16));
  }
}

// Generation reads what training reads: token by token it is the same model, to rounding.
TEST_P(MixedPrecisionTest, TokenByTokenFollowsDoublePrecision) {
  const std::vector<int> tokens = RandomTokens(model_.spec, 1, 2 * step_)[0];
  const auto logits = [&](const ParameterSet& parameters) {
    SequenceRunner runner(model_.spec, parameters, 1);
    std::vector<double> all;
    for (int64_t t = 0; t < 2 * step_; ++t) {
      const int32_t id = tokens[t];
      const Tensor rows = runner.Run(Tensor::FromHost(std::span(&id, 1), {1}));
      const std::vector<double> row = runner.Logits(rows).ToDoubles();
      all.insert(all.end(), row.begin(), row.end());
    }
    return all;
  };
  EXPECT_LE(Distance(logits(mixed_), logits(InDouble(mixed_))), kLosses);
}

std::vector<int> AllModels() {
  std::vector<int> all(AllTinyModels().size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int>(i);
  return all;
}

INSTANTIATE_TEST_SUITE_P(Models, MixedPrecisionTest, ::testing::ValuesIn(AllModels()),
                         [](const auto& info) { return TestNameOf(info.param); });

TEST(ComputeCopies, FollowValuesWhenTheyAreSetOrRefreshed) {
  const ModelSpec spec = TinySpec(BlockKind::kMag);
  ParameterSet set = ParameterSet::Initialize(spec, 1, DType::kF32);
  set.AddComputeCopies(DType::kBF16);
  EXPECT_EQ(set.compute_dtype(), DType::kBF16);
  int64_t narrow = 0;
  const auto expect_copies = [&] {
    for (size_t i = 0; i < set.size(); ++i) {
      const DType dtype = set.info(i).narrow ? DType::kBF16 : DType::kF32;
      ASSERT_EQ(set.Compute(i).dtype(), dtype) << set.info(i).name;
      EXPECT_EQ(set.Compute(i).ToFloats(), set[i].To(dtype).ToFloats()) << set.info(i).name;
    }
  };
  expect_copies();
  for (const ParameterInfo& info : set.infos())
    narrow += info.narrow ? ElementCount(info.shape) : 0;
  EXPECT_EQ(narrow, CountNarrowParameters(spec));
  EXPECT_EQ(set.info(set.Find("embedding.weight")).narrow, true);
  EXPECT_EQ(set.info(set.Find("layers.0.memory.initial.w0")).narrow, false);
  EXPECT_EQ(set.info(set.Find("layers.0.memory.alpha.weight")).narrow, false);
  for (size_t i = 0; i < set.size(); ++i) {
    set.Set(i, Tensor::Full(set[i].shape(), 1.0 / static_cast<double>(3 + i), DType::kF32));
  }
  expect_copies();
  CpuBackend().Fill(set.flat(), 1.0 / 7);
  set.RefreshCompute();
  expect_copies();
}

TEST(ComputeCopies, AreTheValuesWhereThereIsOneDtype) {
  ParameterSet set = ParameterSet::Initialize(TinySpec(BlockKind::kLmm), 1, DType::kF32);
  set.AddComputeCopies(DType::kF32);
  for (size_t i = 0; i < set.size(); ++i) EXPECT_EQ(set.Compute(i).raw(), set[i].raw());
  EXPECT_EQ(set.compute_bytes(), 0);
}

}  // namespace
}  // namespace mnemo::testing
