// Losses on held-out text, slice by slice with the carry kept, so that sequences may have any
// length.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "src/data/sample_stream.h"
#include "src/model/parameters.h"

namespace mnemo {

struct EvaluationOptions {
  int64_t slice = 0;          // tokens run at once; 0: whole sequences
  int64_t max_positions = 0;  // stop after so many tokens; 0: the whole stream
  int64_t vocabulary_tile = 8192;
  // Only sequences i with i mod ranks = rank: a share of the work, to be added up by the caller.
  int rank = 0, ranks = 1;
};

// Tokens [first, last] of their sequences, counted from 0.
struct PositionBucket {
  int64_t first = 0, last = 0;
  int64_t targets = 0;
  double loss_sum = 0;  // nats
  double loss() const { return targets > 0 ? loss_sum / static_cast<double>(targets) : 0; }
};

struct EvaluationResult {
  int64_t sequences = 0;  // begun
  int64_t positions = 0;  // tokens run
  int64_t targets = 0;    // of these, with a target
  double loss_sum = 0;    // nats
  double loss() const { return targets > 0 ? loss_sum / static_cast<double>(targets) : 0; }
  std::vector<PositionBucket> buckets;  // [0, 0], [1, 2], [3, 6], .. to the last position run
};

// What a slice gave: `losses` and `targets` of the tokens [begin, begin + size) of one sequence.
// Slices come in the order of the stream. A target below 0 is masked and its loss 0.
struct EvaluatedSlice {
  int64_t sequence, begin;
  std::span<const float> losses;
  std::span<const int32_t> targets;
};
using EvaluationSink = std::function<absl::Status(const EvaluatedSlice&)>;

// The positions that Evaluate will run, and the offsets of the sequences in them: sequences + 1
// numbers.
std::vector<uint64_t> SequenceOffsets(const EvaluationStream& stream, int64_t max_positions);

// Runs the model over the stream. Where the model is split (tensor_split.h) all ranks of the split
// make the call, of the same share; they get the same result, and their sinks must agree when to
// end. The stream's and the sink's errors are passed on; where documents reset the state, a slice
// that is not a multiple of the model's alignment is one. Lack of memory is ResourceExhausted.
absl::StatusOr<EvaluationResult> Evaluate(const ModelSpec& spec, const ParameterSet& parameters,
                                          const EvaluationStream& stream,
                                          const EvaluationOptions& options,
                                          const EvaluationSink& sink = {});

}  // namespace mnemo
