#include "src/job/recall_training.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "src/core/status.h"
#include "src/job/shard_source.h"
#include "src/job/trainer.h"
#include "src/model/door.h"
#include "src/model/execution.h"
#include "src/model/sequence_runner.h"

namespace mnemo {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Evaluation data are steps that training never reaches.
constexpr uint64_t kEvaluationSteps = uint64_t{1} << 40;

// `config` with what the task decides: a step is one micro-batch of whole sequences.
v1::RunConfig ConfigOf(v1::RunConfig config, const RecallOptions& options) {
  config.mutable_model()->set_vocabulary(static_cast<int32_t>(options.shape.vocabulary()));
  v1::TrainConfig& train = *config.mutable_train();
  train.set_sequence_length(options.shape.length);
  train.set_slice(options.shape.length);
  train.set_sequences(static_cast<int32_t>(options.batch));
  train.set_micro_batches(1);
  train.set_accumulation(1);
  train.set_rematerialize(v1::KEEP_ALL);
  return config;
}

class RecallSource : public StepSource {
 public:
  RecallSource(const v1::RunConfig& config, const RecallShape& shape)
      : config_(config), shape_(shape) {}

  absl::StatusOr<StepTokens> Load(int64_t step) override {
    const v1::TrainConfig& train = config_.train();
    RecallBatch data =
        MakeRecallBatch(shape_, train.sequences(), train.seed(), static_cast<uint64_t>(step));
    SliceBatch batch;
    batch.sequences = train.sequences();
    batch.length = shape_.length;
    batch.tokens = std::move(data.tokens);
    batch.targets = std::move(data.targets);
    StepTokens result;
    result.tokens = batch.sequences * batch.length;
    result.valid_targets = batch.sequences * shape_.pairs;
    result.wavefronts.push_back(MakeTokenSource(
        {CutIntoSlices(MakeSpec(config_.model()), batch, train.slice(),
                       ComputeDType(config_.execution()), ComputeDevice(config_.execution()))}));
    return result;
  }

 private:
  const v1::RunConfig& config_;
  RecallShape shape_;
};

// Share of the answers that have the highest logit of all symbols.
double Accuracy(const Trainer& trainer, const RecallOptions& options) {
  const ModelSpec& spec = trainer.spec();
  const uint64_t seed = trainer.config().train().seed();
  int64_t right = 0, asked = 0;
  for (int64_t i = 0; i < options.evaluation_batches; ++i) {
    const RecallBatch data =
        MakeRecallBatch(options.shape, options.batch, seed, kEvaluationSteps + i);
    SequenceRunner runner(spec, trainer.parameters(), options.batch);
    const int64_t count = static_cast<int64_t>(data.tokens.size());
    const Tensor rows = runner.Run(Tensor::FromHost(std::span<const int32_t>(data.tokens), {count},
                                                    trainer.parameters()[0].device()));
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

absl::StatusOr<RecallResult> TrainRecall(const v1::RunConfig& run, const RecallOptions& unchecked,
                                         const std::function<void(const RecallReport&)>& progress) {
  RecallOptions options = unchecked;
  MNEMO_ASSIGN_OR_RETURN(options.shape, CheckRecallShape(options.shape));
  const v1::RunConfig config = ConfigOf(run, options);
  RecallSource source(config, options.shape);
  MNEMO_ASSIGN_OR_RETURN(const std::unique_ptr<Trainer> trainer, Trainer::Create(config, source));
  const int64_t steps = config.train().steps();
  const Clock::time_point began = Clock::now();
  std::vector<RecallReport> reports;
  for (int64_t step = 1; step <= steps; ++step) {
    v1::StepMetrics metrics;
    MNEMO_RETURN_IF_ERROR(trainer->Step(metrics, /*statistics=*/false));
    const bool late = options.seconds > 0 && Since(began) >= options.seconds;
    if (step % options.report_every != 0 && step != steps && !late) continue;
    MNEMO_ASSIGN_OR_RETURN(const double accuracy, AtTheDoor([&]() -> absl::StatusOr<double> {
                             return Accuracy(*trainer, options);
                           }));
    reports.push_back({step, metrics.loss(), accuracy, Since(began)});
    if (progress) progress(reports.back());
    if (accuracy >= options.stop_at || late) break;
  }
  return RecallResult{std::move(reports), trainer->spec(), trainer->parameters()};
}

}  // namespace mnemo
