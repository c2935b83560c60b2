#include "src/job/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "src/core/backend.h"
#include "src/core/fused_op.h"
#include "src/core/status.h"
#include "src/model/door.h"

namespace mnemo {
namespace {

// Seconds since it was made or last asked.
class Lap {
 public:
  double Seconds() {
    const Clock::time_point now = Clock::now();
    return std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point last_ = Clock::now();
};

void AddLayers(const std::vector<BlockStatistics>& layers, double weight,
               v1::StepMetrics& metrics) {
  for (size_t i = 0; i < layers.size(); ++i) {
    v1::LayerMetrics& sum = metrics.layers_size() > static_cast<int>(i)
                                ? *metrics.mutable_layers(static_cast<int>(i))
                                : *metrics.add_layers();
    sum.set_theta(sum.theta() + weight * layers[i].theta);
    sum.set_eta(sum.eta() + weight * layers[i].eta);
    sum.set_alpha(sum.alpha() + weight * layers[i].alpha);
    sum.set_state_norm(sum.state_norm() + weight * layers[i].state_norm);
    sum.set_clamp_hits(sum.clamp_hits() + layers[i].clamp_hits);
  }
}

void AddFusedCounts(v1::StepMetrics& metrics) {
  for (const auto& [name, count] : FusedCounts()) {
    v1::FusedOpCount& entry = *metrics.add_fused();
    entry.set_name(name);
    entry.set_kernel(count.kernel);
    entry.set_composed(count.composed);
    entry.set_fallback(count.fallback);
  }
}

}  // namespace

Trainer::Trainer(const v1::RunConfig& config, StepSource& source)
    : config_(config), spec_(MakeSpec(config.model())), source_(source) {
  const v1::TrainConfig& train = config_.train();
  schedule_.slices = (train.sequence_length() + train.slice() - 1) / train.slice();
  schedule_.layers = spec_.layers;
  schedule_.micro_batches = train.micro_batches();
  wavefront_.batch = train.sequences();
  wavefront_.rematerialization = RematerializationOf(train.rematerialize());
  wavefront_.vocabulary_tile = train.vocabulary_tile();
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const v1::RunConfig& config,
                                                         StepSource& source) {
  return AtTheDoor([&]() -> absl::StatusOr<std::unique_ptr<Trainer>> {
    const v1::ExecutionConfig& execution = config.execution();
    ApplyExecution(execution);
    std::unique_ptr<Trainer> trainer(new Trainer(config, source));
    const DType dtype = ComputeDType(execution);
    const Device device = ComputeDevice(execution);
    trainer->parameters_ =
        ParameterSet::Initialize(trainer->spec_, config.train().seed(), dtype, device);
    trainer->gradients_ = ParameterSet::Zeros(trainer->spec_, dtype, device);
    trainer->optimizer_ =
        std::make_unique<Optimizer>(MakeOptimizerOptions(config.train()), trainer->parameters_);
    return trainer;
  });
}

absl::Status Trainer::Step(v1::StepMetrics& metrics, bool statistics) {
  metrics.Clear();
  return AtTheDoor([&] { return RunStep(statistics, metrics); });
}

absl::Status Trainer::RunStep(bool statistics, v1::StepMetrics& metrics) {
  Backend& backend = Backend::For(ComputeDevice(config_.execution()));
  backend.ResetPeakMemory();
  metrics.set_step(step_ + 1);
  Lap total, lap;
  MNEMO_ASSIGN_OR_RETURN(StepTokens tokens, source_.Load(step_ + 1));
  if (tokens.valid_targets == 0) {
    return FailedPrecondition("step {} has no targets: every token is masked", step_ + 1);
  }
  metrics.set_tokens(tokens.tokens);
  metrics.mutable_seconds()->set_data(lap.Seconds());
  RunWavefronts(tokens, statistics, metrics);
  lap.Seconds();
  const absl::Status status = Update(metrics.loss(), metrics);
  metrics.mutable_seconds()->set_optimizer(lap.Seconds());
  const double seconds = total.Seconds();
  if (seconds > 0) {
    metrics.set_tokens_per_second(static_cast<double>(metrics.tokens()) / seconds);
  }
  metrics.set_peak_bytes(backend.Memory().peak_bytes);
  peak_bytes_ = std::max(peak_bytes_, metrics.peak_bytes());
  AddFusedCounts(metrics);
  ++step_;
  return status;
}

void Trainer::RunWavefronts(StepTokens& tokens, bool statistics, v1::StepMetrics& metrics) {
  for (const Tensor& gradient : gradients_.values()) {
    Backend::For(gradient.device()).Fill(gradient, 0);
  }
  wavefront_.loss_scale = 1 / static_cast<double>(tokens.valid_targets);
  wavefront_.statistics = statistics;
  double loss_sum = 0, forward = 0, backward = 0;
  Lap lap;
  for (const std::unique_ptr<TokenSource>& source : tokens.wavefronts) {
    UnitRunner runner(spec_, parameters_, *source, spec_.layers, wavefront_, &gradients_);
    RunForward(schedule_, runner);
    forward += lap.Seconds();
    RunBackward(schedule_, runner);
    backward += lap.Seconds();
    loss_sum += runner.LossSum();
    if (statistics) {
      AddLayers(runner.Statistics(), 1.0 / static_cast<double>(tokens.wavefronts.size()), metrics);
    }
  }
  metrics.set_loss(loss_sum / static_cast<double>(tokens.valid_targets));
  metrics.mutable_seconds()->set_forward(forward);
  metrics.mutable_seconds()->set_backward(backward);
}

absl::Status Trainer::Update(double loss, v1::StepMetrics& metrics) {
  const GradientNorm norm = MeasureGradients(gradients_);
  const absl::StatusOr<OptimizerStep> update = optimizer_->Step(step_ + 1, loss, norm, gradients_);
  metrics.set_learning_rate(LearningRate(optimizer_->options(), step_ + 1));
  metrics.set_gradient_norm(std::sqrt(norm.squared));
  metrics.set_skipped(!update.ok() || update->skipped);
  metrics.set_skipped_steps(optimizer_->counters().skipped);
  return update.status();
}

}  // namespace mnemo
