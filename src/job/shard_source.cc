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

std::vector<SliceTokens> CutIntoSlices(const ModelSpec& spec, const SliceBatch& batch,
                                       int64_t slice, DType dtype, Device device) {
  const int64_t rows = batch.sequences, alignment = spec.alignment();
  std::vector<int64_t> document_starts(rows, 0);
  std::vector<SliceTokens> slices;
  for (int64_t begin = 0; begin < batch.length; begin += slice) {
    const int64_t end = std::min(begin + slice, batch.length);
    const std::vector<uint8_t> resets =
        Columns(batch.resets, rows, begin / alignment, (end + alignment - 1) / alignment);
    SliceTokens& part = slices.emplace_back();
    part.tokens = Ids(Columns(batch.tokens, rows, begin, end), device);
    part.targets = Ids(Columns(batch.targets, rows, begin, end), device);
    part.context =
        MakeSliceContext(spec, begin, end - begin, resets, document_starts, dtype, device);
  }
  return slices;
}

std::unique_ptr<TokenSource> MakeTokenSource(std::vector<std::vector<SliceTokens>> micro_batches) {
  return std::make_unique<CutTokens>(std::move(micro_batches));
}

absl::StatusOr<std::unique_ptr<ShardSource>> ShardSource::Create(
    const v1::RunConfig& config, const ModelSpec& spec, std::shared_ptr<const TokenSet> set) {
  const v1::TrainConfig& train = config.train();
  MNEMO_ASSIGN_OR_RETURN(auto tokens, OpenTokenStream(config.data(), spec, std::move(set)));
  SampleStream::Options options;
  options.sequence_length = train.sequence_length();
  options.sequences_per_step =
      int64_t{train.sequences()} * train.micro_batches() * train.accumulation();
  options.seed = train.seed();
  std::shared_ptr<const SampleStream> stream;
  MNEMO_ASSIGN_OR_RETURN(stream, SampleStream::Create(std::move(tokens), options));
  return std::unique_ptr<ShardSource>(new ShardSource(config, spec, std::move(stream)));
}

ShardSource::ShardSource(const v1::RunConfig& config, const ModelSpec& spec,
                         std::shared_ptr<const SampleStream> stream)
    : train_(config.train()),
      execution_(config.execution()),
      prefetch_(std::max(1, config.data().prefetch())),
      spec_(spec),
      stream_(std::move(stream)) {}

// The prefetcher's batches are micro-batches, in the order of steps, wavefronts and micro-batches.
void ShardSource::ReadAheadFrom(int64_t step) {
  const int64_t sequences = train_.sequences();
  const int64_t batches = int64_t{train_.micro_batches()} * train_.accumulation();
  const auto read = [stream = stream_, step, batches, sequences](int64_t index) {
    SliceRequest request;
    request.step = step - 1 + index / batches;
    request.first_sequence = index % batches * sequences;
    request.sequences = sequences;
    request.end = stream->options().sequence_length;
    return std::optional<absl::StatusOr<SliceBatch>>(stream->Read(request));
  };
  prefetcher_ = std::make_unique<Prefetcher>(read, prefetch_);
  next_step_ = step;
}

absl::StatusOr<StepTokens> ShardSource::Load(int64_t step) {
  if (next_step_ != step) ReadAheadFrom(step);
  const DType dtype = ComputeDType(execution_);
  const Device device = ComputeDevice(execution_);
  StepTokens result;
  next_step_ = 0;  // until all of the step has been read
  for (int wavefront = 0; wavefront < train_.accumulation(); ++wavefront) {
    std::vector<std::vector<SliceTokens>> micro_batches;
    for (int m = 0; m < train_.micro_batches(); ++m) {
      MNEMO_ASSIGN_OR_RETURN(const SliceBatch batch, prefetcher_->Next());
      result.tokens += batch.sequences * batch.length;
      result.valid_targets += batch.valid;
      micro_batches.push_back(CutIntoSlices(spec_, batch, train_.slice(), dtype, device));
    }
    result.wavefronts.push_back(MakeTokenSource(std::move(micro_batches)));
  }
  next_step_ = step + 1;
  return result;
}

}  // namespace mnemo
