#include "src/job/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <span>
#include <string>
#include <utility>

#include "src/core/backend.h"
#include "src/core/fused_op.h"
#include "src/core/ops.h"
#include "src/core/status.h"
#include "src/model/door.h"
#include "src/model/tensor_split.h"

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

// What each rank adds to the sums over ranks: the loss, then five numbers a layer.
constexpr size_t kLayerNumbers = 5;

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

std::vector<double> LayerSums(const v1::StepMetrics& metrics) {
  std::vector<double> sums;
  for (const v1::LayerMetrics& layer : metrics.layers()) {
    sums.insert(sums.end(), {layer.theta(), layer.eta(), layer.alpha(), layer.state_norm(),
                             static_cast<double>(layer.clamp_hits())});
  }
  return sums;
}

void SetLayers(std::span<const double> sums, v1::StepMetrics& metrics) {
  for (v1::LayerMetrics& layer : *metrics.mutable_layers()) {
    layer.set_theta(sums[0]);
    layer.set_eta(sums[1]);
    layer.set_alpha(sums[2]);
    layer.set_state_norm(sums[3]);
    layer.set_clamp_hits(static_cast<int64_t>(sums[4]));
    sums = sums.subspan(kLayerNumbers);
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

// The first bad parameter that any rank of the group has found, or -1.
absl::StatusOr<int> FirstBad(Communicator& group, int mine) {
  MNEMO_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                         group.AllGatherStrings(std::to_string(mine)));
  int first = -1;
  for (const std::string& text : all) {
    const int bad = std::atoi(text.c_str());
    if (bad >= 0 && (first < 0 || bad < first)) first = bad;
  }
  return first;
}

absl::Status CheckSharing(const v1::RunConfig& config, const ModelSpec& spec, const Mesh& mesh,
                          int64_t slices) {
  if (mesh.sp > 1 && spec.full_attention()) {
    return InvalidArgument(
        "parallel.sp = {}: attention without a window reads the whole sequence on one rank; set "
        "model.attention.window, or parallel.sp = 1",
        mesh.sp);
  }
  if (mesh.sp > slices) {
    return InvalidArgument(
        "parallel.sp = {}: sequences of {} tokens have only {} slices of {}, so that ranks would "
        "have nothing to do; lower train.slice, or parallel.sp",
        mesh.sp, config.train().sequence_length(), slices, config.train().slice());
  }
  return absl::OkStatus();
}

}  // namespace

Trainer::Trainer(const v1::RunConfig& config, StepSource& source, Ranks& ranks,
                 const ReplicaShare& share)
    : config_(config),
      spec_(SplitSpec(MakeSpec(config.model()),
                      {ranks.mesh().tp, ranks.position().tp, ranks.peers()})),
      source_(source),
      ranks_(ranks) {
  const v1::TrainConfig& train = config_.train();
  schedule_.slices = (train.sequence_length() + train.slice() - 1) / train.slice();
  schedule_.ranks = ranks.mesh().sp;
  schedule_.layers = spec_.layers;
  schedule_.micro_batches = share.micro_batches;
  wavefront_.batch = train.sequences();
  wavefront_.rematerialization = RematerializationOf(train.rematerialize());
  wavefront_.vocabulary_tile = train.vocabulary_tile();
  wavefront_.rotary = &rotary_;
  relay_ = ranks.MakeRelay(schedule_);
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const v1::RunConfig& config,
                                                         StepSource& source) {
  std::unique_ptr<Ranks> alone = Ranks::Alone();
  MNEMO_ASSIGN_OR_RETURN(std::unique_ptr<Trainer> trainer, Create(config, source, *alone));
  trainer->alone_ = std::move(alone);
  return trainer;
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const v1::RunConfig& config,
                                                         StepSource& source, Ranks& ranks) {
  return AtTheDoor([&]() -> absl::StatusOr<std::unique_ptr<Trainer>> {
    const v1::ExecutionConfig& execution = config.execution();
    ApplyExecution(execution);
    const v1::TrainConfig& train = config.train();
    MNEMO_ASSIGN_OR_RETURN(
        const ReplicaShare share,
        ShareOfReplica(ranks.mesh().dp, train.accumulation(), train.micro_batches()));
    MNEMO_RETURN_IF_ERROR(CheckTensorSplit(MakeSpec(config.model()), ranks.mesh().tp));
    std::unique_ptr<Trainer> trainer(new Trainer(config, source, ranks, share));
    MNEMO_RETURN_IF_ERROR(
        CheckSharing(config, trainer->spec_, ranks.mesh(), trainer->schedule_.slices));
    const DType dtype = ComputeDType(execution);
    const Device device = ComputeDevice(execution);
    ParameterSet& parameters = trainer->parameters_;
    parameters = ParameterSet::Initialize(trainer->spec_, train.seed(), WideType(dtype), device);
    parameters.AddComputeCopies(dtype);
    trainer->gradients_ = ParameterSet::Zeros(trainer->spec_, WideType(dtype), device);
    const bool sharded = config.parallel().zero() > 0;
    const Communicator& group = ranks.replicas();
    std::vector<ParameterShard> shards = CutParameters(parameters, sharded ? group.size() : 1);
    for (const ParameterShard& shard : shards) {
      trainer->pieces_.push_back(shard.flat_end - shard.flat_begin);
    }
    trainer->optimizer_ = std::make_unique<Optimizer>(
        MakeOptimizerOptions(train), parameters, std::move(shards[sharded ? group.rank() : 0]));
    return trainer;
  });
}

absl::Status Trainer::Step(v1::StepMetrics& metrics, bool statistics) {
  metrics.Clear();
  const absl::Status status = AtTheDoor([&] { return RunStep(statistics, metrics); });
  phase_.reset();
  // All ranks agree that a step was skipped; anything else only this one knows.
  if (!status.ok() && !metrics.skipped()) ranks_.Abort(status);
  return status;
}

absl::Status Trainer::RunStep(bool statistics, v1::StepMetrics& metrics) {
  Backend& backend = Backend::For(ComputeDevice(config_.execution()));
  backend.ResetPeakMemory();
  metrics.set_step(step_ + 1);
  Lap total, lap;
  Enter("data");
  MNEMO_ASSIGN_OR_RETURN(StepTokens tokens, source_.Load(step_ + 1));
  if (tokens.valid_targets == 0) {
    return FailedPrecondition("step {} has no targets: every token is masked", step_ + 1);
  }
  metrics.set_tokens(tokens.tokens);
  metrics.mutable_seconds()->set_data(lap.Seconds());
  MNEMO_RETURN_IF_ERROR(RunWavefronts(tokens, statistics, metrics));
  lap.Seconds();
  GradientNorm norm;
  Enter("sum of gradients");
  MNEMO_RETURN_IF_ERROR(Combine(metrics, norm));
  metrics.mutable_seconds()->set_wait(metrics.seconds().wait() + lap.Seconds());
  if (before_update_) MNEMO_RETURN_IF_ERROR(before_update_());
  lap.Seconds();
  Enter("update");
  const absl::Status status = Update(norm, metrics);
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

absl::Status Trainer::RunWavefronts(StepTokens& tokens, bool statistics, v1::StepMetrics& metrics) {
  Backend::For(gradients_.flat().device()).Fill(gradients_.flat(), 0);
  wavefront_.loss_scale = 1 / static_cast<double>(tokens.valid_targets);
  wavefront_.statistics = statistics;
  trace_.clear();
  const auto waited = [&] {
    return relay_->counters(Direction::kForward).received.wait_seconds +
           relay_->counters(Direction::kForward).sent.wait_seconds +
           relay_->counters(Direction::kBackward).received.wait_seconds +
           relay_->counters(Direction::kBackward).sent.wait_seconds;
  };
  const int sp_rank = ranks_.position().sp;
  // A layer's means count as much as the units they are over, of all units of all ranks.
  const double own = static_cast<double>(ForwardOrder(schedule_, sp_rank).size());
  const double all = static_cast<double>(schedule_.slices * schedule_.micro_batches *
                                         schedule_.layers * ranks_.mesh().dp) *
                     static_cast<double>(tokens.wavefronts.size());
  double forward = 0, backward = 0;
  Tensor loss_sum;  // read once, after all wavefronts
  const double waited_before = waited();
  Lap lap;
  for (const std::unique_ptr<TokenSource>& source : tokens.wavefronts) {
    UnitRunner runner(spec_, parameters_, *source, spec_.layers, wavefront_, &gradients_);
    Enter("forward");
    MNEMO_RETURN_IF_ERROR(RunForward(schedule_, sp_rank, *relay_, runner, &trace_));
    forward += lap.Seconds();
    Enter("backward");
    MNEMO_RETURN_IF_ERROR(RunBackward(schedule_, sp_rank, *relay_, runner, &trace_));
    backward += lap.Seconds();
    loss_sum = loss_sum.defined() ? Add(Var(loss_sum), Var(runner.DeviceLossSum())).value()
                                  : runner.DeviceLossSum();
    if (statistics) AddLayers(runner.Statistics(), own / all, metrics);
  }
  const double loss = loss_sum.defined() ? loss_sum.Item() : 0;
  metrics.set_loss(loss * wavefront_.loss_scale);
  v1::PhaseSeconds& seconds = *metrics.mutable_seconds();
  seconds.set_forward(forward);
  seconds.set_backward(backward);
  seconds.set_wait(waited() - waited_before);
  return absl::OkStatus();
}

absl::Status Trainer::Combine(v1::StepMetrics& metrics, GradientNorm& norm) {
  Communicator& group = ranks_.replicas();
  if (sharded()) {
    const ParameterShard& shard = optimizer_->shard();
    MNEMO_RETURN_IF_ERROR(group.ReduceScatterSum(
        gradients_.flat(), gradients_.flat().Slice(0, shard.flat_begin, shard.flat_end), pieces_));
  } else {
    MNEMO_RETURN_IF_ERROR(group.AllReduceSum(gradients_.flat()));
  }
  // What all ranks of the tp axis hold counts on the first of them.
  norm = MeasureGradients(gradients_, optimizer_->shard(), ranks_.position().tp > 0);
  std::vector<double> sums = LayerSums(metrics);
  sums.push_back(metrics.loss());
  sums.push_back(sharded() ? norm.squared : 0);
  MNEMO_RETURN_IF_ERROR(group.AllReduceSum(sums));
  SetLayers(sums, metrics);
  metrics.set_loss(sums[sums.size() - 2]);
  if (sharded()) norm.squared = sums.back();
  MNEMO_RETURN_IF_ERROR(ranks_.parts().AllReduceSum(std::span(&norm.squared, 1)));
  if (std::isfinite(norm.squared)) return absl::OkStatus();
  if (sharded()) {
    MNEMO_ASSIGN_OR_RETURN(norm.first_bad, FirstBad(group, norm.first_bad));
  }
  MNEMO_ASSIGN_OR_RETURN(norm.first_bad, FirstBad(ranks_.parts(), norm.first_bad));
  return absl::OkStatus();
}

absl::Status Trainer::Update(const GradientNorm& norm, v1::StepMetrics& metrics) {
  const absl::StatusOr<OptimizerStep> update =
      optimizer_->Step(step_ + 1, metrics.loss(), norm, gradients_);
  metrics.set_learning_rate(LearningRate(optimizer_->options(), step_ + 1));
  metrics.set_gradient_norm(std::sqrt(norm.squared));
  metrics.set_skipped(!update.ok() || update->skipped);
  metrics.set_skipped_steps(optimizer_->counters().skipped);
  MNEMO_RETURN_IF_ERROR(update.status());
  if (update->skipped) return absl::OkStatus();
  if (sharded()) {
    const ParameterShard& shard = optimizer_->shard();
    MNEMO_RETURN_IF_ERROR(
        ranks_.replicas().AllGather(parameters_.flat().Slice(0, shard.flat_begin, shard.flat_end),
                                    parameters_.flat(), pieces_));
  }
  parameters_.RefreshCompute();
  return absl::OkStatus();
}

}  // namespace mnemo
