// The blocks over sp ranks, against one rank: losses of single tokens bitwise, gradients to
// rounding, on every rank, for 1 to 5 ranks as threads, or as processes.
#include <gtest/gtest.h>

#include "tests/model/wavefront_ranks.h"
#include "tests/parallel/rank_worlds.h"

namespace mnemo::testing {
namespace {

// The sum over R ranks of a few thousand f64 terms of order one.
constexpr double kGradientTolerance = 1e-10;

class SequenceParallel : public ::testing::TestWithParam<int> {
 protected:
  // Slices of one alignment each: 10 of them, so that 3 ranks hold 3 or 4 and 4 ranks 2 or 3, and
  // a window of 6 reaches over more than one boundary of 4.
  SequenceParallel() : model_(AllTinyModels()[GetParam()]) {
    const int64_t step = model_.spec.alignment() == 1 ? 4 : model_.spec.alignment();
    options_.slices.assign(10, step);
  }

  // On this rank of an sp axis of all ranks.
  void Compare(Transport& transport, const ParameterSet& parameters,
               const std::vector<std::vector<int>>& tokens, const StepResult& whole,
               double gradients) const {
    const auto ranks = Ranks::Create(transport, {1, transport.size(), 1}, kPatience).value();
    ExpectSameAsWhole(*ranks, model_.spec, parameters, tokens, options_, whole,
                      {.losses = 0, .gradients = gradients});
  }
  void Compare(Transport& transport, const std::vector<std::vector<int>>& tokens,
               const StepResult& whole) const {
    Compare(transport, model_.parameters, tokens, whole, kGradientTolerance);
  }

  const TinyModel model_;
  StepOptions options_;
};

TEST_P(SequenceParallel, RanksComputeWhatOneComputes) {
  const int64_t length = options_.slices[0] * 10;
  for (const int sequences : {1, 2}) {  // micro-batches
    const auto tokens = RandomTokens(model_.spec, sequences, length);
    const StepResult whole = RunStep(model_.spec, model_.parameters, tokens, options_);
    ForEachWorld([&](Transport& transport) { Compare(transport, tokens, whole); });
  }
}

// What crosses a boundary is handed over as it is, bf16 or f32; only sums over slices, in f32, are
// taken in another order.
TEST_P(SequenceParallel, RanksComputeWhatOneComputesInBf16) {
  const auto tokens = RandomTokens(model_.spec, 1, options_.slices[0] * 10);
  const ParameterSet mixed = MixedPrecision(model_.parameters);
  const StepResult whole = RunStep(model_.spec, mixed, tokens, options_);
  ForEachWorld([&](Transport& transport) { Compare(transport, mixed, tokens, whole, 1e-5); });
}

TEST_P(SequenceParallel, DocumentsMayBeginInTheMiddle) {
  const int64_t step = options_.slices[0];
  options_.batch = 2;
  options_.starts = {step, 4 * step, 5 * step};
  options_.policy = Rematerialization::kSlices;
  const auto tokens = RandomTokens(model_.spec, 2, 10 * step);
  const StepResult whole = RunStep(model_.spec, model_.parameters, tokens, options_);
  ForEachWorld([&](Transport& transport) { Compare(transport, tokens, whole); }, 2);
}

std::vector<int> ModelsWithSlices() {
  std::vector<int> list;
  const std::vector<TinyModel> models = AllTinyModels();
  for (size_t i = 0; i < models.size(); ++i) {
    if (!models[i].spec.full_attention()) list.push_back(static_cast<int>(i));
  }
  return list;
}

INSTANTIATE_TEST_SUITE_P(Models, SequenceParallel, ::testing::ValuesIn(ModelsWithSlices()),
                         [](const auto& info) { return TestNameOf(info.param); });

}  // namespace
}  // namespace mnemo::testing
