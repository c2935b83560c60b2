#include "src/model/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "src/core/backend.h"
#include "src/core/log.h"
#include "src/core/status.h"

namespace mnemo {

OptimizerOptions MakeOptimizerOptions(const v1::TrainConfig& train) {
  const v1::OptimizerConfig& config = train.optimizer();
  OptimizerOptions options;
  options.learning_rate = config.learning_rate();
  options.minimum_ratio = config.minimum_ratio();
  options.warmup_steps = config.warmup_steps();
  options.decay_steps = config.decay_steps();
  options.beta1 = config.beta1();
  options.beta2 = config.beta2();
  options.epsilon = config.epsilon();
  options.weight_decay = config.weight_decay();
  options.clip_norm = config.clip_norm();
  options.max_bad_steps = config.max_bad_steps();
  return options;
}

double LearningRate(const OptimizerOptions& options, int64_t step) {
  const double peak = options.learning_rate;
  if (step < options.warmup_steps) {
    return peak * static_cast<double>(step) / static_cast<double>(options.warmup_steps);
  }
  const double length = static_cast<double>(options.decay_steps - options.warmup_steps);
  const double done = static_cast<double>(step - options.warmup_steps);
  const double progress = length > 0 ? std::clamp(done / length, 0.0, 1.0) : 1.0;
  const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * progress));
  return peak * (options.minimum_ratio + (1 - options.minimum_ratio) * cosine);
}

GradientNorm MeasureGradients(const ParameterSet& gradients) {
  return MeasureGradients(gradients, CutParameters(gradients, 1)[0]);
}

GradientNorm MeasureGradients(const ParameterSet& gradients, const ParameterShard& shard,
                              bool split_only) {
  std::vector<int> measured;
  std::vector<Tensor> pieces;
  for (const ParameterRows& rows : shard.rows) {
    if (split_only && gradients.info(rows.parameter).split < 0) continue;
    measured.push_back(rows.parameter);
    pieces.push_back(RowsOf(gradients, rows));
  }
  GradientNorm norm;
  if (pieces.empty()) return norm;
  const std::vector<double> squares = Backend::For(pieces[0].device()).SquaredNorms(pieces);
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (!std::isfinite(squares[i]) && norm.first_bad < 0) norm.first_bad = measured[i];
    norm.squared += squares[i];
  }
  return norm;
}

Optimizer::Optimizer(const OptimizerOptions& options, ParameterSet& parameters)
    : Optimizer(options, parameters, CutParameters(parameters, 1)[0]) {}

Optimizer::Optimizer(const OptimizerOptions& options, ParameterSet& parameters,
                     ParameterShard shard)
    : options_(options), parameters_(parameters), shard_(std::move(shard)) {
  const Tensor& flat = parameters.flat();
  MNEMO_CHECK(flat.dtype() != DType::kBF16, "parameters that cannot hold a small step");
  for (const ParameterRows& rows : shard_.rows) {
    const Shape shape = RowsOf(parameters, rows).shape();
    first_moments_.push_back(Tensor::Zeros(shape, flat.dtype(), flat.device()));
    second_moments_.push_back(Tensor::Zeros(shape, flat.dtype(), flat.device()));
  }
}

absl::StatusOr<OptimizerStep> Optimizer::Step(int64_t step, double loss, const GradientNorm& norm,
                                              const ParameterSet& gradients) {
  MNEMO_CHECK(gradients.size() == parameters_.size());
  OptimizerStep result;
  result.learning_rate = LearningRate(options_, step);
  result.gradient_norm = std::sqrt(norm.squared);
  if (!std::isfinite(loss) || !std::isfinite(result.gradient_norm)) {
    MNEMO_RETURN_IF_ERROR(Skip(step, loss, norm));
    result.skipped = true;
    return result;
  }
  counters_.bad_in_a_row = 0;
  ++counters_.updates;
  const bool clip = options_.clip_norm > 0 && result.gradient_norm > options_.clip_norm;
  const double scale = clip ? options_.clip_norm / result.gradient_norm : 1.0;
  for (size_t i = 0; i < shard_.rows.size(); ++i) {
    Update(i, result.learning_rate, scale, RowsOf(gradients, shard_.rows[i]));
  }
  return result;
}

absl::Status Optimizer::Skip(int64_t step, double loss, const GradientNorm& norm) {
  ++counters_.skipped;
  ++counters_.bad_in_a_row;
  std::string culprit = "the global gradient norm overflows";
  if (norm.first_bad >= 0) {
    culprit =
        fmt::format("the gradient of {} is not finite", parameters_.info(norm.first_bad).name);
  }
  if (!std::isfinite(loss)) culprit = fmt::format("the loss is {}, {}", loss, culprit);
  std::vector<Tensor> values;
  for (const ParameterRows& rows : shard_.rows) values.push_back(RowsOf(parameters_, rows));
  if (!values.empty()) {
    const std::vector<double> squares = Backend::For(values[0].device()).SquaredNorms(values);
    const auto bad = std::find_if_not(squares.begin(), squares.end(),
                                      [](double square) { return std::isfinite(square); });
    if (bad != squares.end()) {
      culprit = fmt::format("parameter {} itself is not finite", NameOf(bad - squares.begin()));
    }
  }
  if (counters_.bad_in_a_row < options_.max_bad_steps) {
    LogWarning("step {}: {}; nothing is updated ({} in a row)", step, culprit,
               counters_.bad_in_a_row);
    return absl::OkStatus();
  }
  return absl::AbortedError(fmt::format(
      "step {}: {}, and {} steps in a row were like this; lower train.optimizer.learning_rate or "
      "model.memory.gates.theta_max, or set model.memory.clamp",
      step, culprit, counters_.bad_in_a_row));
}

void Optimizer::Update(size_t i, double rate, double gradient_scale, const Tensor& gradient) {
  const double updates = static_cast<double>(counters_.updates);
  const Tensor value = RowsOf(parameters_, shard_.rows[i]);
  AdamWStep step;
  step.rate = rate;
  step.beta1 = options_.beta1;
  step.beta2 = options_.beta2;
  step.epsilon = options_.epsilon;
  step.decay = parameters_.info(shard_.rows[i].parameter).decay ? options_.weight_decay : 0;
  step.correction1 = 1 - std::pow(options_.beta1, updates);
  step.correction2 = 1 - std::pow(options_.beta2, updates);
  step.gradient_scale = gradient_scale;
  Backend::For(value.device()).AdamW(step, gradient, value, first_moments_[i], second_moments_[i]);
}

std::vector<StateTensor> Optimizer::State() const {
  std::vector<StateTensor> state;
  for (size_t i = 0; i < shard_.rows.size(); ++i) {
    const ParameterRows& rows = shard_.rows[i];
    state.push_back({"first_moment/" + NameOf(i), rows, first_moments_[i]});
    state.push_back({"second_moment/" + NameOf(i), rows, second_moments_[i]});
  }
  return state;
}

int64_t Optimizer::StateBytes() const {
  int64_t bytes = 0;
  for (const StateTensor& entry : State()) bytes += entry.tensor.bytes();
  return bytes;
}

}  // namespace mnemo
