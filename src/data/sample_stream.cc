#include "src/data/sample_stream.h"

#include <algorithm>

#include "src/core/random.h"
#include "src/core/status.h"

namespace mnemo {
namespace {

absl::Status CheckLength(const TokenStream& stream, int64_t sequence_length) {
  if (sequence_length < 1) return InvalidArgument("sequences of {} tokens", sequence_length);
  if (sequence_length % stream.alignment() != 0) {
    return InvalidArgument(
        "a sequence length of {} is not a multiple of {}, to which documents are aligned",
        sequence_length, stream.alignment());
  }
  return absl::OkStatus();
}

// Positions [begin, begin + length) of B sequences that begin at `sequences` in the stream.
absl::StatusOr<SliceBatch> ReadAll(const TokenStream& stream, const std::vector<int64_t>& sequences,
                                   int64_t begin, int64_t length) {
  SliceBatch batch;
  batch.sequences = static_cast<int64_t>(sequences.size());
  batch.length = length;
  const size_t n = static_cast<size_t>(length);
  const size_t groups = static_cast<size_t>((length + stream.alignment() - 1) / stream.alignment());
  batch.tokens.resize(sequences.size() * n);
  batch.targets.resize(sequences.size() * n);
  batch.resets.resize(sequences.size() * groups);
  batch.document_starts.resize(sequences.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    MNEMO_ASSIGN_OR_RETURN(
        const int64_t valid,
        stream.Read(sequences[i] + begin, std::span(batch.tokens).subspan(i * n, n),
                    std::span(batch.targets).subspan(i * n, n),
                    std::span(batch.resets).subspan(i * groups, groups)));
    batch.valid += valid;
    if (length == 0) continue;
    MNEMO_ASSIGN_OR_RETURN(const int64_t document, stream.DocumentStart(sequences[i] + begin));
    batch.document_starts[i] = std::max<int64_t>(0, document - sequences[i]);
  }
  return batch;
}

}  // namespace

SampleStream::SampleStream(std::shared_ptr<const TokenStream> stream, const Options& options)
    : stream_(std::move(stream)),
      options_(options),
      sequences_(stream_->length() / options.sequence_length) {}

absl::StatusOr<std::unique_ptr<SampleStream>> SampleStream::Create(
    std::shared_ptr<const TokenStream> stream, const Options& options) {
  MNEMO_RETURN_IF_ERROR(CheckLength(*stream, options.sequence_length));
  if (options.sequences_per_step < 1) {
    return InvalidArgument("{} sequences a step", options.sequences_per_step);
  }
  if (stream->length() < options.sequence_length) {
    return InvalidArgument(
        "the training data is {} tokens long, a sequence {}: give more data or shorten "
        "train.sequence_length",
        stream->length(), options.sequence_length);
  }
  return std::unique_ptr<SampleStream>(new SampleStream(std::move(stream), options));
}

int64_t SampleStream::SequenceAt(int64_t step, int64_t sequence) const {
  const int64_t index = step * options_.sequences_per_step + sequence;
  const uint64_t epoch = static_cast<uint64_t>(index / sequences_);
  const RandomPermutation order(RandomStream(options_.seed, epoch, "data/shuffle"),
                                static_cast<uint64_t>(sequences_));
  return static_cast<int64_t>(order(static_cast<uint64_t>(index % sequences_)));
}

absl::StatusOr<SliceBatch> SampleStream::Read(const SliceRequest& request) const {
  if (request.step < 0 || request.first_sequence < 0 || request.sequences < 1 ||
      request.sequences > options_.sequences_per_step - request.first_sequence ||
      request.begin < 0 || request.begin > request.end || request.end > options_.sequence_length) {
    return InvalidArgument(
        "step {}: tokens [{}, {}) of sequences [{}, {}) lie outside its {} sequences of {} tokens",
        request.step, request.begin, request.end, request.first_sequence,
        request.first_sequence + request.sequences, options_.sequences_per_step,
        options_.sequence_length);
  }
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < request.sequences; ++i) {
    const int64_t sequence = SequenceAt(request.step, request.first_sequence + i);
    starts.push_back(sequence * options_.sequence_length);
  }
  return ReadAll(*stream_, starts, request.begin, request.end - request.begin);
}

absl::StatusOr<int64_t> SampleStream::ValidTargets(int64_t step) const {
  if (step < 0) return InvalidArgument("step {}", step);
  int64_t valid = 0;
  for (int64_t i = 0; i < options_.sequences_per_step; ++i) {
    const int64_t start = SequenceAt(step, i) * options_.sequence_length;
    MNEMO_ASSIGN_OR_RETURN(const int64_t targets,
                           stream_->CountTargets(start, start + options_.sequence_length));
    valid += targets;
  }
  return valid;
}

absl::StatusOr<std::unique_ptr<EvaluationStream>> EvaluationStream::Create(
    std::shared_ptr<const TokenStream> stream, int64_t sequence_length) {
  MNEMO_RETURN_IF_ERROR(CheckLength(*stream, sequence_length));
  return std::unique_ptr<EvaluationStream>(
      new EvaluationStream(std::move(stream), sequence_length));
}

int64_t EvaluationStream::sequences() const {
  return (stream_->length() + sequence_length_ - 1) / sequence_length_;
}

int64_t EvaluationStream::length(int64_t sequence) const {
  return std::clamp<int64_t>(stream_->length() - sequence * sequence_length_, 0, sequence_length_);
}

absl::StatusOr<SliceBatch> EvaluationStream::Read(int64_t sequence, int64_t begin,
                                                  int64_t end) const {
  if (sequence < 0 || sequence >= sequences() || begin < 0 || begin > end ||
      end > length(sequence)) {
    return InvalidArgument("tokens [{}, {}) of sequence {} lie outside the {} sequences", begin,
                           end, sequence, sequences());
  }
  return ReadAll(*stream_, {sequence * sequence_length_}, begin, end - begin);
}

absl::StatusOr<int64_t> EvaluationStream::ValidTargets() const {
  return stream_->CountTargets(0, stream_->length());
}

}  // namespace mnemo
