#include "src/model/recall_task.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "src/core/random.h"
#include "src/model/optimizer.h"
#include "src/model/sequence_runner.h"
#include "src/model/unit_runner.h"

namespace mnemo {
namespace {

// Evaluation data are steps that training never reaches.
constexpr uint64_t kEvaluationSteps = uint64_t{1} << 40;

// `count` distinct numbers below `bound`, in random order; advances `next`.
std::vector<int64_t> Distinct(const RandomStream& stream, uint64_t& next, int64_t count,
                              int64_t bound) {
  std::vector<int64_t> all(bound);
  std::iota(all.begin(), all.end(), 0);
  for (int64_t i = 0; i < count; ++i) {
    const auto left = static_cast<uint64_t>(bound - i);
    std::swap(all[i], all[i + static_cast<int64_t>(stream.Below(next++, left))]);
  }
  all.resize(count);
  return all;
}

// First tokens of `pairs` two-token places in [begin, end), in random order.
std::vector<int64_t> Places(const RandomStream& stream, uint64_t& next, int pairs, int64_t begin,
                            int64_t end) {
  // Choosing among places with one token less for each pair before keeps them apart.
  std::vector<int64_t> places = Distinct(stream, next, pairs, end - begin - pairs);
  std::vector<int64_t> sorted = places;
  std::sort(sorted.begin(), sorted.end());
  for (int64_t& place : places) {
    place += begin + (std::lower_bound(sorted.begin(), sorted.end(), place) - sorted.begin());
  }
  return places;
}

class RecallSource : public TokenSource {
 public:
  RecallSource(const RecallShape& shape, int64_t batch, int64_t slice)
      : shape_(shape), batch_(batch), slice_(slice) {}
  void Use(RecallBatch data) { data_ = std::move(data); }

  SliceTokens Get(int, int64_t slice) override {
    SliceTokens result;
    const int64_t begin = slice * slice_, n = std::min(slice_, shape_.length - begin);
    result.context.position = begin;
    result.context.length = n;
    const auto cut = [&](const std::vector<int32_t>& all) {
      std::vector<int32_t> part;
      for (int64_t b = 0; b < batch_; ++b) {
        const auto first = all.begin() + b * shape_.length + begin;
        part.insert(part.end(), first, first + n);
      }
      return Tensor::FromHost(part, {batch_ * n});
    };
    result.tokens = cut(data_.tokens);
    result.targets = cut(data_.targets);
    return result;
  }

 private:
  RecallShape shape_;
  int64_t batch_, slice_;
  RecallBatch data_;
};

// Share of the answers that have the highest logit of all symbols.
double Accuracy(const ModelSpec& spec, const ParameterSet& parameters, const RecallOptions& options,
                uint64_t seed) {
  int64_t right = 0, asked = 0;
  for (int64_t i = 0; i < options.evaluation_batches; ++i) {
    const RecallBatch data =
        MakeRecallBatch(options.shape, options.batch, seed, kEvaluationSteps + i);
    SequenceRunner runner(spec, parameters, options.batch);
    const int64_t count = static_cast<int64_t>(data.tokens.size());
    const Tensor rows = runner.Run(Tensor::FromHost(data.tokens, {count}));
    const std::vector<float> logits = runner.Logits(rows).ToFloats();
    for (int64_t n = 0; n < count; ++n) {
      if (data.targets[n] < 0) continue;
      const auto row = logits.begin() + n * spec.vocabulary;
      ++asked;
      right += std::max_element(row, row + spec.vocabulary) - row == data.targets[n];
    }
  }
  return static_cast<double>(right) / static_cast<double>(asked);
}

}  // namespace

int64_t RecallShape::distance() const { return asked_from - shown_until; }

absl::StatusOr<RecallShape> CheckRecallShape(RecallShape shape) {
  if (shape.shown_until == 0) shape.shown_until = shape.length / 4;
  if (shape.asked_from == 0) shape.asked_from = shape.length / 2;
  if (shape.pairs < 1 || shape.pairs > shape.keys || shape.values < 1 || shape.distractors < 1) {
    return InvalidArgument(
        "recall: {} pairs need as many of the {} keys, and values and "
        "distractors to choose from",
        shape.pairs, shape.keys);
  }
  if (2 * shape.pairs > shape.shown_until || shape.asked_from < shape.shown_until ||
      shape.asked_from + 2 * shape.pairs > shape.length) {
    return InvalidArgument(
        "recall: {} pairs do not fit in tokens [0, {}) and their questions in [{}, {}); use a "
        "longer sequence or fewer pairs",
        shape.pairs, shape.shown_until, shape.asked_from, shape.length);
  }
  return shape;
}

RecallBatch MakeRecallBatch(const RecallShape& shape, int64_t batch, uint64_t seed, uint64_t step) {
  const RandomStream stream(seed, step, "recall");
  RecallBatch data;
  data.tokens.resize(batch * shape.length);
  data.targets.assign(batch * shape.length, -1);
  uint64_t next = 0;
  for (int64_t b = 0; b < batch; ++b) {
    int32_t* tokens = &data.tokens[b * shape.length];
    int32_t* targets = &data.targets[b * shape.length];
    const int32_t first_value = shape.keys, first_distractor = shape.keys + shape.values;
    for (int64_t t = 0; t < shape.length; ++t) {
      tokens[t] = first_distractor + static_cast<int32_t>(stream.Below(next++, shape.distractors));
    }
    const std::vector<int64_t> keys = Distinct(stream, next, shape.pairs, shape.keys);
    const std::vector<int64_t> shown = Places(stream, next, shape.pairs, 0, shape.shown_until);
    const std::vector<int64_t> asked =
        Places(stream, next, shape.pairs, shape.asked_from, shape.length);
    for (int i = 0; i < shape.pairs; ++i) {
      const auto key = static_cast<int32_t>(keys[i]);
      const auto value = first_value + static_cast<int32_t>(stream.Below(next++, shape.values));
      tokens[shown[i]] = tokens[asked[i]] = key;
      tokens[shown[i] + 1] = tokens[asked[i] + 1] = value;
      targets[asked[i]] = value;
    }
  }
  return data;
}

absl::StatusOr<std::vector<RecallReport>> TrainRecall(
    const v1::RunConfig& run, const RecallOptions& unchecked,
    const std::function<void(const RecallReport&)>& progress) {
  RecallOptions options = unchecked;
  MNEMO_ASSIGN_OR_RETURN(options.shape, CheckRecallShape(options.shape));
  v1::RunConfig config = run;
  config.mutable_model()->set_vocabulary(static_cast<int32_t>(options.shape.vocabulary()));
  const ModelSpec spec = MakeSpec(config.model());
  const uint64_t seed = config.train().seed();
  ParameterSet parameters = ParameterSet::Initialize(spec, seed, DType::kF32);
  Optimizer optimizer(MakeOptimizerOptions(config.train()), parameters);
  const int64_t slice = options.shape.length;
  RecallSource source(options.shape, options.batch, slice);
  WavefrontOptions wavefront;
  wavefront.batch = options.batch;
  wavefront.rematerialization = Rematerialization::kKeepAll;
  wavefront.loss_scale = 1.0 / static_cast<double>(options.batch * options.shape.pairs);
  const ScheduleShape schedule{.slices = 1, .ranks = 1, .layers = spec.layers, .micro_batches = 1};
  const auto began = std::chrono::steady_clock::now();
  std::vector<RecallReport> reports;
  for (int64_t step = 1; step <= config.train().steps(); ++step) {
    source.Use(MakeRecallBatch(options.shape, options.batch, seed, static_cast<uint64_t>(step)));
    ParameterSet gradients = ParameterSet::Zeros(spec, DType::kF32);
    UnitRunner runner(spec, parameters, source, spec.layers, wavefront, &gradients);
    RunForward(schedule, runner);
    RunBackward(schedule, runner);
    const double loss = runner.LossSum() * wavefront.loss_scale;
    MNEMO_ASSIGN_OR_RETURN([[maybe_unused]] const OptimizerStep done,
                           optimizer.Step(step, loss, MeasureGradients(gradients), gradients));
    if (step % options.report_every != 0 && step != config.train().steps()) continue;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
    reports.push_back({step, loss, Accuracy(spec, parameters, options, seed), seconds.count()});
    if (progress) progress(reports.back());
    if (reports.back().accuracy >= options.stop_at) break;
  }
  return reports;
}

}  // namespace mnemo
