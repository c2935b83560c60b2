#include "src/model/counted_step.h"

#include <algorithm>

#include "src/core/counting_backend.h"
#include "src/core/planned_fused_policy.h"
#include "src/model/execution.h"
#include "src/model/parameters.h"
#include "src/model/unit_runner.h"

namespace mnemo {
namespace {

// Slices of tokens that are not there.
class CountedTokens : public TokenSource {
 public:
  CountedTokens(const v1::RunConfig& config, const ModelSpec& spec, DType dtype, Device device)
      : train_(config.train()),
        documents_(config.data().document_reset() == v1::CHUNK),
        spec_(spec),
        dtype_(dtype),
        device_(device) {}

  SliceTokens Get(int, int64_t slice) override {
    const int64_t batch = train_.sequences();
    SliceTokens result;
    SliceContext& context = result.context;
    context.position = slice * train_.slice();
    context.length = std::min(train_.slice(), train_.sequence_length() - context.position);
    const int64_t rows = batch * context.length;
    result.tokens = Tensor::Zeros({rows}, DType::kI32, device_);
    result.targets = Tensor::Zeros({rows}, DType::kI32, device_);
    if (documents_) {
      context.starts.assign(rows, 0);
      const int64_t group = spec_.has_memory() ? spec_.rule.chunk : 1;
      context.resets =
          Tensor::Zeros({batch, (context.length + group - 1) / group}, WideType(dtype_), device_);
    }
    return result;
  }

 private:
  const v1::TrainConfig& train_;
  bool documents_;
  const ModelSpec& spec_;
  DType dtype_;
  Device device_;
};

}  // namespace

CountedBytes CountStep(const v1::RunConfig& config, const ModelSpec& whole, int layers,
                       int64_t slices) {
  ResetCountedHeldBytes();
  ModelSpec spec = whole;
  spec.layers = layers;
  const v1::TrainConfig& train = config.train();
  const DType dtype = ComputeDType(config.execution());
  const Device device = ComputeDevice(config.execution()) == Device() ? kCountingCpu : kCountingGpu;
  // The run itself says what a strict policy refuses.
  const PlannedFusedPolicy planned({.enabled = config.execution().fused(),
                                    .strict = false,
                                    .deterministic = config.execution().deterministic()});
  ParameterSet parameters = ParameterSet::Zeros(spec, WideType(dtype), device);
  parameters.AddComputeCopies(dtype);
  ParameterSet gradients = ParameterSet::Zeros(spec, WideType(dtype), device);
  CountedTokens tokens(config, spec, dtype, device);
  WavefrontOptions options;
  options.batch = train.sequences();
  options.rematerialization = RematerializationOf(train.rematerialize());
  options.vocabulary_tile = train.vocabulary_tile();
  ScheduleShape shape;
  shape.slices = slices;
  shape.layers = layers;
  Backend& backend = CountingBackend(device);
  const int64_t before = backend.Memory().current_bytes;
  backend.ResetPeakMemory();
  const int64_t held = CountedHeldBytes();
  UnitRunner runner(spec, parameters, tokens, layers, options, &gradients);
  RunForward(shape, runner);
  const int64_t kept = backend.Memory().current_bytes - before;
  RunBackward(shape, runner);
  return {kept, backend.Memory().peak_bytes - before, CountedHeldBytes() - held};
}

}  // namespace mnemo
