// Training and evaluation sequences cut from a token stream.
//
// Training: the stream is cut into whole sequences of length T (the rest at its end is left out).
// Each epoch visits every sequence once, in an order of its own that (seed, epoch) decides. Step s
// takes the next `sequences_per_step` of them, and may span two epochs. What a batch holds is a
// pure function of (data set, seed, step, sequence, token range): any rank can ask for any part of
// it, in any order.
//
// Evaluation: the sequences one after the other, the last one possibly shorter.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "src/data/token_stream.h"

namespace mnemo {

// Part [begin, end) of sequences [first_sequence, first_sequence + sequences) of a step. In the
// aligned layout `begin` and `end` are multiples of the alignment.
struct SliceRequest {
  int64_t step = 0;
  int64_t first_sequence = 0;
  int64_t sequences = 1;  // B
  int64_t begin = 0;
  int64_t end = 0;  // n = end - begin
};

struct SliceBatch {
  int64_t sequences = 0;         // B
  int64_t length = 0;            // n
  std::vector<int32_t> tokens;   // [B, n]
  std::vector<int32_t> targets;  // [B, n], kNoTarget where there is none
  std::vector<uint8_t> resets;   // [B, ceil(n / alignment)], 1: a document starts in this group
  // [B]: the position in the sequence at which the document of the first token began; 0 if that
  // was before the sequence.
  std::vector<int64_t> document_starts;
  int64_t valid = 0;  // targets that are there
};

// Both streams are thread-safe and immutable.
class SampleStream {
 public:
  struct Options {
    int64_t sequence_length = 0;     // T >= 1; aligned layout: a multiple of the alignment
    int64_t sequences_per_step = 1;  // over all ranks, micro-batches and accumulation
    uint64_t seed = 0;
  };
  // InvalidArgument if the options are out of range or the data set holds no whole sequence.
  static absl::StatusOr<std::unique_ptr<SampleStream>> Create(
      std::shared_ptr<const TokenStream> stream, const Options& options);

  int64_t sequences_per_epoch() const { return sequences_; }
  const Options& options() const { return options_; }
  const TokenStream& stream() const { return *stream_; }

  // InvalidArgument outside the step; DataLoss from damaged shards.
  absl::StatusOr<SliceBatch> Read(const SliceRequest& request) const;

  // Targets of all sequences of the step: what its loss is divided by. Reads no tokens; at most a
  // few blocks of document offsets.
  absl::StatusOr<int64_t> ValidTargets(int64_t step) const;

  // Where in the stream (counted in sequences) a step's sequence lies.
  int64_t SequenceAt(int64_t step, int64_t sequence) const;

 private:
  SampleStream(std::shared_ptr<const TokenStream> stream, const Options& options);
  std::shared_ptr<const TokenStream> stream_;
  Options options_;
  int64_t sequences_;
};

class EvaluationStream {
 public:
  // InvalidArgument as above; a stream shorter than `sequence_length` is one short sequence.
  static absl::StatusOr<std::unique_ptr<EvaluationStream>> Create(
      std::shared_ptr<const TokenStream> stream, int64_t sequence_length);

  int64_t sequences() const;
  int64_t length(int64_t sequence) const;  // T, for the last one possibly less
  const TokenStream& stream() const { return *stream_; }

  // Part [begin, end) of one sequence; B = 1.
  absl::StatusOr<SliceBatch> Read(int64_t sequence, int64_t begin, int64_t end) const;
  // Targets of the whole stream.
  absl::StatusOr<int64_t> ValidTargets() const;

 private:
  EvaluationStream(std::shared_ptr<const TokenStream> stream, int64_t sequence_length)
      : stream_(std::move(stream)), sequence_length_(sequence_length) {}
  std::shared_ptr<const TokenStream> stream_;
  int64_t sequence_length_;
};

}  // namespace mnemo
