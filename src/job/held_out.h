// The loss on held-out text, in the course of a training run.
#pragma once

#include <functional>
#include <optional>

#include "absl/status/statusor.h"
#include "src/data/sample_stream.h"
#include "src/job/trainer.h"

namespace mnemo {

// Nats a token, over train.evaluation_tokens of the stream. Sequences are dealt to the ranks of
// dp x sp; every rank of the job calls it, and all get the same number, which is that of one rank
// to rounding. `should_stop`, asked after every slice, ends it early; null if any rank was asked
// to. An error of this rank aborts the others.
absl::StatusOr<std::optional<double>> EvaluateHeldOut(Trainer& trainer,
                                                      const EvaluationStream& stream,
                                                      const std::function<bool()>& should_stop);

}  // namespace mnemo
