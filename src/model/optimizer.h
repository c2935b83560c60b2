// AdamW (Loshchilov and Hutter, arXiv 1711.05101) over a ParameterSet, with warm-up and cosine
// decay of the learning rate and clipping by the global norm.
//
// A step on which the loss or a gradient is not finite changes nothing and is counted; after
// max_bad_steps of them in a row Step() fails and names the culprit.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "src/model/parameter_shards.h"
#include "src/model/parameters.h"

namespace mnemo {

struct OptimizerOptions {
  double learning_rate = 1e-3;  // peak
  double minimum_ratio = 0.1;   // final learning rate over the peak
  int64_t warmup_steps = 0;
  int64_t decay_steps = 1;  // step at which the cosine reaches its minimum
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0.1;  // of the parameters whose ParameterInfo says so
  double clip_norm = 1;       // 0: no clipping
  int max_bad_steps = 5;
};
// `train` is effective: its defaults are filled in.
OptimizerOptions MakeOptimizerOptions(const v1::TrainConfig& train);

// The learning rate of a step, counted from 1: peak * step / warmup_steps up to the end of the
// warm-up, then a cosine that reaches peak * minimum_ratio at decay_steps and stays there.
double LearningRate(const OptimizerOptions& options, int64_t step);

// What a step must know of all gradients before it may use any of them. Sums over disjoint sets of
// parameters add up, so ranks that hold a part each can combine theirs.
struct GradientNorm {
  double squared = 0;  // sum of squares in f64; not finite if a gradient is not
  int first_bad = -1;  // index of the first parameter whose gradient is not finite, or -1
};
GradientNorm MeasureGradients(const ParameterSet& gradients);
// `split_only` leaves out the parameters that every tensor-parallel rank holds whole: all but the
// first of these ranks pass it, so that none counts twice.
GradientNorm MeasureGradients(const ParameterSet& gradients, const ParameterShard& shard,
                              bool split_only = false);

struct OptimizerStep {
  double learning_rate = 0;
  double gradient_norm = 0;  // before clipping; not finite on a skipped step
  bool skipped = false;
};

// A tensor of the optimizer's state, under a stable name.
struct StateTensor {
  std::string name;
  ParameterRows rows;  // which rows of its parameter it belongs to
  Tensor tensor;       // shares its storage with the optimizer
};

// Not thread-safe.
class Optimizer {
 public:
  // Updates `parameters`, of f32 or f64, in place; they outlive the optimizer. Moments are of the
  // same dtype. Compute copies are the caller's to refresh.
  Optimizer(const OptimizerOptions& options, ParameterSet& parameters);
  // Holds the state of a shard and updates its rows only.
  Optimizer(const OptimizerOptions& options, ParameterSet& parameters, ParameterShard shard);

  // Step `step`, counted from 1 and including skipped ones. `norm` is of all gradients of the step,
  // those of other shards included; of `gradients` only the shard is read. Aborted after
  // max_bad_steps steps in a row that were not finite.
  absl::StatusOr<OptimizerStep> Step(int64_t step, double loss, const GradientNorm& norm,
                                     const ParameterSet& gradients);

  const OptimizerOptions& options() const { return options_; }
  const ParameterShard& shard() const { return shard_; }

  // What, together with the parameters, determines every later step.
  struct Counters {
    int64_t updates = 0;  // steps that changed the parameters: the bias corrections' t
    int64_t skipped = 0;
    int bad_in_a_row = 0;
  };
  const Counters& counters() const { return counters_; }
  void set_counters(const Counters& counters) { counters_ = counters; }
  // "first_moment/NAME" and "second_moment/NAME" for every piece of the shard. Writing into these
  // tensors restores a state.
  std::vector<StateTensor> State() const;
  int64_t StateBytes() const;

 private:
  absl::Status Skip(int64_t step, double loss, const GradientNorm& norm);
  void Update(size_t i, double rate, double gradient_scale, const Tensor& gradient);
  const std::string& NameOf(size_t i) const {
    return parameters_.info(shard_.rows[i].parameter).name;
  }

  OptimizerOptions options_;
  ParameterSet& parameters_;
  ParameterShard shard_;
  std::vector<Tensor> first_moments_, second_moments_;  // one for each of shard_.rows
  Counters counters_;
};

}  // namespace mnemo
