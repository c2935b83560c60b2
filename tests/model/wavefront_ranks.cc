#include "tests/model/wavefront_ranks.h"

#include <gtest/gtest.h>

#include <memory>
#include <string_view>

#include "src/model/tensor_split.h"
#include "tests/parallel/rank_worlds.h"

namespace mnemo::testing {
namespace {

// Bits that must be the same on all ranks of the tp axis.
void ExpectSameOnAll(Communicator& parts, const Tensor& x, const std::string& what) {
  const Tensor bits = x.Contiguous();
  const std::string_view mine(static_cast<const char*>(bits.raw()), bits.bytes());
  const auto all = parts.AllGatherStrings(mine);
  ASSERT_OK(all.status());
  for (const std::string& other : *all) EXPECT_EQ(other, mine) << what;
}

ScheduleShape ShapeOf(const Ranks& ranks, int layers, int64_t sequences,
                      const StepOptions& options) {
  ScheduleShape shape;
  shape.slices = static_cast<int64_t>(options.slices.size());
  shape.ranks = ranks.mesh().sp;
  shape.layers = layers;
  shape.micro_batches = static_cast<int>(sequences / options.batch);
  return shape;
}

}  // namespace

void ExpectSameAsWhole(Ranks& ranks, const ModelSpec& spec, const ParameterSet& parameters,
                       const std::vector<std::vector<int>>& tokens, const StepOptions& options,
                       const StepResult& whole, const WavefrontTolerance& tolerance) {
  const int64_t step = options.slices[0], batch = options.batch;
  const auto sequences = static_cast<int64_t>(tokens.size());
  const ScheduleShape shape = ShapeOf(ranks, spec.layers, sequences, options);
  WavefrontOptions wavefront;
  wavefront.batch = batch;
  wavefront.rematerialization = options.policy;
  wavefront.vocabulary_tile = 4;
  wavefront.loss_scale = 1.0 / static_cast<double>(step * shape.slices * sequences);
  const DType dtype = parameters.flat().dtype();
  FixedSource source(spec, tokens, batch, options.slices, options.starts, dtype);
  ParameterSet gradients = ParameterSet::Zeros(spec, dtype);
  UnitRunner runner(spec, parameters, source, spec.layers, wavefront, &gradients);
  const std::unique_ptr<Relay> relay = ranks.MakeRelay(shape);
  const int rank = ranks.position().sp;
  ASSERT_OK(RunForward(shape, rank, *relay, runner));
  ASSERT_OK(RunBackward(shape, rank, *relay, runner));
  for (int m = 0; m < shape.micro_batches; ++m) {
    for (int64_t s = rank; s < shape.slices; s += shape.ranks) {
      ExpectSameOnAll(ranks.parts(), runner.Losses(m, s), "losses");
      const std::vector<double> losses = runner.Losses(m, s).ToDoubles();
      for (int64_t i = 0; i < batch * step; ++i) {
        const int64_t sequence = m * batch + i / step, token = s * step + i % step;
        ASSERT_NEAR(losses[i], whole.losses[sequence][token], tolerance.losses)
            << "sequence " << sequence << " token " << token;
      }
    }
  }
  ASSERT_OK(ranks.replicas().AllReduceSum(gradients.flat()));
  for (size_t i = 0; i < gradients.size(); ++i) {
    const ParameterInfo& info = gradients.info(i);
    EXPECT_LE(RelativeError(PartOf(whole.gradients[i], info), gradients[i]), tolerance.gradients)
        << info.name;
    if (info.split < 0) ExpectSameOnAll(ranks.parts(), gradients[i], info.name);
  }
  ASSERT_OK(relay->Drain());
}

}  // namespace mnemo::testing
