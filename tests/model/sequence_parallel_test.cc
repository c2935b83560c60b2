// The blocks over sp ranks, against one rank: losses of single tokens bitwise, gradients to
// rounding, on every rank, for 1 to 5 ranks as threads, or as processes.
#include <gtest/gtest.h>

#include <cctype>

#include "src/parallel/ranks.h"
#include "tests/model/tiny_model.h"
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

  // Runs the ranks' share of a wavefront and compares it with the whole.
  void Compare(Transport& transport, const std::vector<std::vector<int>>& tokens,
               const StepOptions& options, const StepResult& whole) const;

  const TinyModel model_;
  StepOptions options_;
};

void SequenceParallel::Compare(Transport& transport, const std::vector<std::vector<int>>& tokens,
                               const StepOptions& options, const StepResult& whole) const {
  const ModelSpec& spec = model_.spec;
  const int64_t step = options.slices[0], all = static_cast<int64_t>(options.slices.size());
  const auto ranks = Ranks::Create(transport, {1, transport.size(), 1}, kPatience).value();
  FixedSource source(spec, tokens, options.batch, options.slices, options.starts);
  ScheduleShape shape;
  shape.slices = all;
  shape.ranks = transport.size();
  shape.layers = spec.layers;
  shape.micro_batches = static_cast<int>(static_cast<int64_t>(tokens.size()) / options.batch);
  WavefrontOptions wavefront;
  wavefront.batch = options.batch;
  wavefront.rematerialization = options.policy;
  wavefront.vocabulary_tile = 4;
  wavefront.loss_scale = 1.0 / static_cast<double>(step * all * tokens.size());
  ParameterSet gradients = ParameterSet::Zeros(spec, DType::kF64);
  UnitRunner runner(spec, model_.parameters, source, spec.layers, wavefront, &gradients);
  const std::unique_ptr<Relay> relay = ranks->MakeRelay(shape);
  const int rank = ranks->position().sp;
  ASSERT_OK(RunForward(shape, rank, *relay, runner));
  for (int m = 0; m < shape.micro_batches; ++m) {
    for (int64_t s = rank; s < all; s += shape.ranks) {
      const std::vector<double> losses = runner.Losses(m, s).ToDoubles();
      for (int64_t b = 0; b < options.batch; ++b) {
        for (int64_t t = 0; t < step; ++t) {
          ASSERT_EQ(losses[b * step + t], whole.losses[m * options.batch + b][s * step + t])
              << "slice " << s << " token " << t;
        }
      }
    }
  }
  ASSERT_OK(RunBackward(shape, rank, *relay, runner));
  ASSERT_OK(ranks->replicas().AllReduceSum(gradients.flat()));
  for (size_t i = 0; i < gradients.size(); ++i) {
    EXPECT_LE(RelativeError(whole.gradients[i], gradients[i]), kGradientTolerance)
        << gradients.info(i).name;
  }
  ASSERT_OK(relay->Drain());
}

TEST_P(SequenceParallel, RanksComputeWhatOneComputes) {
  const int64_t length = options_.slices[0] * 10;
  for (const int sequences : {1, 2}) {  // micro-batches
    const auto tokens = RandomTokens(model_.spec, sequences, length);
    const StepResult whole = RunStep(model_.spec, model_.parameters, tokens, options_);
    ForEachWorld([&](Transport& transport) { Compare(transport, tokens, options_, whole); });
  }
}

TEST_P(SequenceParallel, DocumentsMayBeginInTheMiddle) {
  const int64_t step = options_.slices[0];
  options_.batch = 2;
  options_.starts = {step, 4 * step, 5 * step};
  options_.policy = Rematerialization::kSlices;
  const auto tokens = RandomTokens(model_.spec, 2, 10 * step);
  const StepResult whole = RunStep(model_.spec, model_.parameters, tokens, options_);
  ForEachWorld([&](Transport& transport) { Compare(transport, tokens, options_, whole); }, 2);
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
                         [](const auto& info) {
                           std::string name = AllTinyModels()[info.param].name;
                           for (char& c : name) c = std::isalnum(c) ? c : '_';
                           return name;
                         });

}  // namespace
}  // namespace mnemo::testing
