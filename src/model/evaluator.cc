#include "src/model/evaluator.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "src/model/door.h"
#include "src/model/sequence_runner.h"

namespace mnemo {
namespace {

// floor(log2(position + 1)): bucket k holds positions 2^k - 1 to 2^(k+1) - 2.
size_t BucketOf(int64_t position) {
  return std::bit_width(static_cast<uint64_t>(position + 1)) - 1;
}

class Evaluation {
 public:
  Evaluation(const ModelSpec& spec, const ParameterSet& parameters, const EvaluationStream& stream,
             const EvaluationOptions& options, const EvaluationSink& sink)
      : spec_(spec), parameters_(parameters), stream_(stream), options_(options), sink_(sink) {}

  absl::Status RunSequence(int64_t sequence, int64_t length) {
    SequenceRunner runner(spec_, parameters_);
    const int64_t slice = options_.slice > 0 ? options_.slice : length;
    for (int64_t begin = 0; begin < length; begin += slice) {
      SliceBatch batch;
      MNEMO_ASSIGN_OR_RETURN(batch, stream_.Read(sequence, begin, std::min(length, begin + slice)));
      const int64_t count = batch.length;
      const Device device = parameters_[0].device();
      const Tensor rows = runner.Run(
          Tensor::FromHost(std::span<const int32_t>(batch.tokens), {count}, device), batch.resets);
      const Tensor targets =
          Tensor::FromHost(std::span<const int32_t>(batch.targets), {count}, device);
      const std::vector<float> losses =
          runner.Losses(rows, targets, options_.vocabulary_tile).ToFloats();
      Add(begin, losses, batch.targets);
      if (sink_) MNEMO_RETURN_IF_ERROR(sink_({sequence, begin, losses, batch.targets}));
    }
    ++result_.sequences;
    return absl::OkStatus();
  }

  // The last bucket ends where the longest sequence did.
  EvaluationResult Finish() {
    if (!result_.buckets.empty()) result_.buckets.back().last = last_position_;
    return std::move(result_);
  }

 private:
  void Add(int64_t begin, const std::vector<float>& losses, const std::vector<int32_t>& targets) {
    for (size_t i = 0; i < losses.size(); ++i) {
      const size_t bucket = BucketOf(begin + static_cast<int64_t>(i));
      while (result_.buckets.size() <= bucket) {
        const int64_t first = (int64_t{1} << result_.buckets.size()) - 1;
        result_.buckets.push_back({first, 2 * first, 0, 0});
      }
      if (targets[i] < 0) continue;
      ++result_.buckets[bucket].targets;
      result_.buckets[bucket].loss_sum += losses[i];
      ++result_.targets;
      result_.loss_sum += losses[i];
    }
    result_.positions += static_cast<int64_t>(losses.size());
    last_position_ = std::max(last_position_, begin + static_cast<int64_t>(losses.size()) - 1);
  }

  const ModelSpec& spec_;
  const ParameterSet& parameters_;
  const EvaluationStream& stream_;
  const EvaluationOptions& options_;
  const EvaluationSink& sink_;
  EvaluationResult result_;
  int64_t last_position_ = 0;
};

}  // namespace

std::vector<uint64_t> SequenceOffsets(const EvaluationStream& stream, int64_t max_positions) {
  std::vector<uint64_t> offsets{0};
  for (int64_t i = 0; i < stream.sequences(); ++i) {
    int64_t length = stream.length(i);
    if (max_positions > 0) {
      length = std::min(length, max_positions - static_cast<int64_t>(offsets.back()));
    }
    if (length <= 0) break;
    offsets.push_back(offsets.back() + static_cast<uint64_t>(length));
  }
  return offsets;
}

absl::StatusOr<EvaluationResult> Evaluate(const ModelSpec& spec, const ParameterSet& parameters,
                                          const EvaluationStream& stream,
                                          const EvaluationOptions& options,
                                          const EvaluationSink& sink) {
  Evaluation evaluation(spec, parameters, stream, options, sink);
  const std::vector<uint64_t> offsets = SequenceOffsets(stream, options.max_positions);
  return AtTheDoor([&]() -> absl::StatusOr<EvaluationResult> {
    for (size_t i = options.rank; i + 1 < offsets.size(); i += options.ranks) {
      MNEMO_RETURN_IF_ERROR(evaluation.RunSequence(
          static_cast<int64_t>(i), static_cast<int64_t>(offsets[i + 1] - offsets[i])));
    }
    return evaluation.Finish();
  });
}

}  // namespace mnemo
