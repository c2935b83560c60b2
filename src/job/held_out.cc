#include "src/job/held_out.h"

#include <span>

#include "src/core/status.h"
#include "src/model/evaluator.h"

namespace mnemo {
namespace {

struct Sums {
  double loss = 0, targets = 0, stopped = 0;
};

absl::StatusOr<Sums> EvaluateShare(Trainer& trainer, const EvaluationStream& stream,
                                   const std::function<bool()>& should_stop) {
  const v1::TrainConfig& train = trainer.config().train();
  const Communicator& group = trainer.ranks().replicas();
  EvaluationOptions options;
  options.slice = train.slice();
  options.max_positions = train.evaluation_tokens();
  options.vocabulary_tile = train.vocabulary_tile();
  options.rank = group.rank();
  options.ranks = group.size();
  // Ranks of one tp group run the same slices together, so none of them may end before the others.
  const bool may_stop = trainer.ranks().mesh().tp == 1;
  bool stopped = false;
  const absl::StatusOr<EvaluationResult> result =
      Evaluate(trainer.spec(), trainer.parameters(), stream, options, [&](const EvaluatedSlice&) {
        stopped = may_stop && should_stop();
        return stopped ? absl::CancelledError() : absl::OkStatus();
      });
  if (stopped) return Sums{.stopped = 1};
  MNEMO_RETURN_IF_ERROR(result.status());
  return Sums{.loss = result->loss_sum, .targets = static_cast<double>(result->targets)};
}

}  // namespace

absl::StatusOr<std::optional<double>> EvaluateHeldOut(Trainer& trainer,
                                                      const EvaluationStream& stream,
                                                      const std::function<bool()>& should_stop) {
  Ranks& ranks = trainer.ranks();
  const absl::StatusOr<Sums> share = EvaluateShare(trainer, stream, should_stop);
  if (!share.ok()) {
    ranks.Abort(share.status());
    return share.status();
  }
  double sums[] = {share->loss, share->targets, share->stopped};
  const absl::Status status = ranks.replicas().AllReduceSum(std::span<double>(sums));
  if (!status.ok()) {
    ranks.Abort(status);
    return status;
  }
  if (sums[2] > 0) return std::nullopt;
  return sums[1] > 0 ? sums[0] / sums[1] : 0;
}

}  // namespace mnemo
