#include "src/job/shard_source.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "src/core/status.h"
#include "src/model/execution.h"
#include "src/model/sequence_runner.h"

namespace mnemo {
namespace {

class CutTokens : public TokenSource {
 public:
  explicit CutTokens(std::vector<std::vector<SliceTokens>> micro_batches)
      : micro_batches_(std::move(micro_batches)) {}
  SliceTokens Get(int micro_batch, int64_t slice) override {
    return micro_batches_.at(micro_batch).at(slice);
  }

 private:
  std::vector<std::vector<SliceTokens>> micro_batches_;
};

// Columns [begin, end) of a row-major [rows, columns] array.
template <typename T>
std::vector<T> Columns(const std::vector<T>& all, int64_t rows, int64_t begin, int64_t end) {
  std::vector<T> part;
  if (all.empty()) return part;
  const int64_t columns = static_cast<int64_t>(all.size()) / rows;
  part.reserve(rows * (end - begin));
  for (int64_t row = 0; row < rows; ++row) {
    const auto first = all.begin() + row * columns;
    part.insert(part.end(), first + begin, first + end);
  }
  return part;
}

Tensor Ids(const std::vector<int32_t>& ids, Device device) {
  return Tensor::FromHost(std::span<const int32_t>(ids), {static_cast<int64_t>(ids.size())},
                          device);
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TokenStream>> OpenTokenStream(
    const v1::DataConfig& data, const ModelSpec& spec, std::shared_ptr<const TokenSet> set) {
  const bool aligned = data.document_reset() == v1::CHUNK;
  return TokenStream::Open(std::move(set),
                           aligned ? DocumentLayout::kAligned : DocumentLayout::kConcatenated,
                           aligned ? spec.alignment() : 1);
}

SliceTokens MakeSliceTokens(const ModelSpec& spec, const SliceBatch& batch, int64_t position,
                            DType dtype, Device device) {
  std::vector<int64_t> document_starts = batch.document_starts;
  document_starts.resize(batch.sequences);
  SliceTokens slice;
  slice.tokens = Ids(batch.tokens, device);
  slice.targets = Ids(batch.targets, device);
  slice.context =
      MakeSliceContext(spec, position, batch.length, batch.resets, document_starts, dtype, device);
  return slice;
}

std::vector<SliceTokens> CutIntoSlices(const ModelSpec& spec, const SliceBatch& batch,
                                       int64_t slice, DType dtype, Device device) {
  const int64_t rows = batch.sequences, alignment = spec.alignment();
  std::vector<int64_t> document_starts(rows, 0);
  std::vector<SliceTokens> slices;
  for (int64_t begin = 0; begin < batch.length; begin += slice) {
    const int64_t end = std::min(begin + slice, batch.length);
    SliceBatch part;
    part.sequences = rows;
    part.length = end - begin;
    part.tokens = Columns(batch.tokens, rows, begin, end);
    part.targets = Columns(batch.targets, rows, begin, end);
    part.resets = Columns(batch.resets, rows, begin / alignment, (end + alignment - 1) / alignment);
    part.document_starts = document_starts;
    slices.push_back(MakeSliceTokens(spec, part, begin, dtype, device));
    for (int64_t row = 0; row < rows && !slices.back().context.starts.empty(); ++row) {
      document_starts[row] = slices.back().context.starts[(row + 1) * part.length - 1];
    }
  }
  return slices;
}

absl::StatusOr<StepShare> ShareOfRank(const Ranks& ranks, const v1::TrainConfig& train) {
  const Mesh& mesh = ranks.mesh();
  const MeshPosition& place = ranks.position();
  MNEMO_ASSIGN_OR_RETURN(const ReplicaShare share,
                         ShareOfReplica(mesh.dp, train.accumulation(), train.micro_batches()));
  return StepShare{place.dp, mesh.dp, place.sp, mesh.sp, share.accumulation, share.micro_batches};
}

std::unique_ptr<TokenSource> MakeTokenSource(std::vector<std::vector<SliceTokens>> micro_batches) {
  return std::make_unique<CutTokens>(std::move(micro_batches));
}

absl::StatusOr<std::unique_ptr<ShardSource>> ShardSource::Create(
    const v1::RunConfig& config, const ModelSpec& spec, std::shared_ptr<const TokenSet> set,
    const StepShare& share) {
  const v1::TrainConfig& train = config.train();
  MNEMO_ASSIGN_OR_RETURN(auto tokens, OpenTokenStream(config.data(), spec, std::move(set)));
  SampleStream::Options options;
  options.sequence_length = train.sequence_length();
  options.sequences_per_step =
      int64_t{train.sequences()} * train.micro_batches() * train.accumulation();
  options.seed = train.seed();
  std::shared_ptr<const SampleStream> stream;
  MNEMO_ASSIGN_OR_RETURN(stream, SampleStream::Create(std::move(tokens), options));
  return std::unique_ptr<ShardSource>(new ShardSource(config, spec, std::move(stream), share));
}

absl::StatusOr<std::unique_ptr<ShardSource>> ShardSource::Create(
    const v1::RunConfig& config, const ModelSpec& spec, std::shared_ptr<const TokenSet> set) {
  StepShare share;
  share.accumulation = config.train().accumulation();
  share.micro_batches = config.train().micro_batches();
  return Create(config, spec, std::move(set), share);
}

ShardSource::ShardSource(const v1::RunConfig& config, const ModelSpec& spec,
                         std::shared_ptr<const SampleStream> stream, const StepShare& share)
    : train_(config.train()),
      execution_(config.execution()),
      share_(share),
      all_slices_((train_.sequence_length() + train_.slice() - 1) / train_.slice()),
      prefetch_(std::max(1, config.data().prefetch())),
      spec_(spec),
      stream_(std::move(stream)) {
  for (int64_t s = share.sp_rank; s < all_slices_; s += share.sp_ranks) slices_.push_back(s);
}

// The prefetcher's batches are slices, in the order of steps, wavefronts, micro-batches and slices.
void ShardSource::ReadAheadFrom(int64_t step) {
  const int64_t slices = static_cast<int64_t>(slices_.size());
  const int64_t micro_batches = int64_t{share_.accumulation} * share_.micro_batches;
  const int64_t batches = micro_batches * slices;
  const auto read = [stream = stream_, step, share = share_, slices = slices_, micro_batches,
                     batches, sequences = int64_t{train_.sequences()},
                     length = train_.slice()](int64_t index) {
    const int64_t in_step = index % batches, count = static_cast<int64_t>(slices.size());
    SliceRequest request;
    request.step = step - 1 + index / batches;
    request.first_sequence = (share.replica * micro_batches + in_step / count) * sequences;
    request.sequences = sequences;
    request.begin = slices[in_step % count] * length;
    request.end = std::min(request.begin + length, stream->options().sequence_length);
    return std::optional<absl::StatusOr<SliceBatch>>(stream->Read(request));
  };
  prefetcher_ = std::make_unique<Prefetcher>(read, static_cast<int>(prefetch_ * slices));
  next_step_ = step;
}

absl::StatusOr<StepTokens> ShardSource::Load(int64_t step) {
  StepTokens result;
  result.tokens = stream_->options().sequences_per_step * stream_->options().sequence_length;
  MNEMO_ASSIGN_OR_RETURN(result.valid_targets, stream_->ValidTargets(step - 1));
  if (next_step_ != step && !slices_.empty()) ReadAheadFrom(step);
  const DType dtype = ComputeDType(execution_);
  const Device device = ComputeDevice(execution_);
  next_step_ = 0;  // until all of the step has been read
  for (int wavefront = 0; wavefront < share_.accumulation; ++wavefront) {
    std::vector<std::vector<SliceTokens>> micro_batches(share_.micro_batches);
    for (std::vector<SliceTokens>& micro_batch : micro_batches) {
      micro_batch.resize(all_slices_);
      for (const int64_t s : slices_) {
        MNEMO_ASSIGN_OR_RETURN(const SliceBatch batch, prefetcher_->Next());
        micro_batch[s] = MakeSliceTokens(spec_, batch, s * train_.slice(), dtype, device);
      }
    }
    result.wavefronts.push_back(MakeTokenSource(std::move(micro_batches)));
  }
  next_step_ = step + 1;
  return result;
}

}  // namespace mnemo
