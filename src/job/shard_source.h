// A step's tokens from token shards, read ahead on a thread of their own.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "mnemo/v1/config.pb.h"
#include "src/data/prefetcher.h"
#include "src/data/sample_stream.h"
#include "src/job/step_source.h"
#include "src/model/spec.h"
#include "src/parallel/ranks.h"

namespace mnemo {

// How a run lays documents out in a stream.
absl::StatusOr<std::shared_ptr<const TokenStream>> OpenTokenStream(
    const v1::DataConfig& data, const ModelSpec& spec, std::shared_ptr<const TokenSet> set);

// The part of every step that one rank reads: the slices that it owns of its replica's sequences.
struct StepShare {
  int replica = 0, replicas = 1;  // place on the dp axis
  int sp_rank = 0, sp_ranks = 1;  // place on the sp axis: slices s with s mod sp_ranks = sp_rank
  int accumulation = 1;           // wavefronts of a replica
  int micro_batches = 1;          // of each
};
// InvalidArgument unless the replicas can share the steps of `train` (ShareOfReplica).
absl::StatusOr<StepShare> ShareOfRank(const Ranks& ranks, const v1::TrainConfig& train);

class ShardSource : public StepSource {
 public:
  // `config` is effective. InvalidArgument if the data set is too small for one sequence.
  static absl::StatusOr<std::unique_ptr<ShardSource>> Create(const v1::RunConfig& config,
                                                             const ModelSpec& spec,
                                                             std::shared_ptr<const TokenSet> set,
                                                             const StepShare& share);
  // For the rank that does everything.
  static absl::StatusOr<std::unique_ptr<ShardSource>> Create(const v1::RunConfig& config,
                                                             const ModelSpec& spec,
                                                             std::shared_ptr<const TokenSet> set);

  // Steps asked for in order are read ahead. Counts of tokens are those of all ranks.
  absl::StatusOr<StepTokens> Load(int64_t step) override;

  const SampleStream& stream() const { return *stream_; }

 private:
  ShardSource(const v1::RunConfig& config, const ModelSpec& spec,
              std::shared_ptr<const SampleStream> stream, const StepShare& share);
  void ReadAheadFrom(int64_t step);

  v1::TrainConfig train_;
  v1::ExecutionConfig execution_;
  StepShare share_;
  std::vector<int64_t> slices_;  // owned
  int64_t all_slices_;
  int prefetch_;
  ModelSpec spec_;
  std::shared_ptr<const SampleStream> stream_;
  int64_t next_step_ = 0;  // that the prefetcher will give; 0: there is none
  std::unique_ptr<Prefetcher> prefetcher_;
};

// One slice at `position` of its sequences.
SliceTokens MakeSliceTokens(const ModelSpec& spec, const SliceBatch& batch, int64_t position,
                            DType dtype, Device device);
// A micro-batch's whole sequences cut into slices.
std::vector<SliceTokens> CutIntoSlices(const ModelSpec& spec, const SliceBatch& batch,
                                       int64_t slice, DType dtype, Device device);

// M micro-batches, each cut into slices, as a TokenSource. Slices of other ranks are left empty.
std::unique_ptr<TokenSource> MakeTokenSource(std::vector<std::vector<SliceTokens>> micro_batches);

}  // namespace mnemo
