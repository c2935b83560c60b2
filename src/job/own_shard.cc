#include "src/job/own_shard.h"

#include <vector>

#include "src/core/status.h"
#include "src/model/door.h"

namespace mnemo {

ParameterShard OwnShard(Trainer& trainer) {
  const Communicator& group = trainer.ranks().replicas();
  return CutParameters(trainer.parameters(), group.size())[group.rank()];
}

Shape RowStart(const ParameterInfo& info, int64_t row) {
  Shape begin = PartBegin(info);
  if (!begin.empty()) begin[0] += row;
  return begin;
}

absl::Status GatherShards(Trainer& trainer) {
  Ranks& ranks = trainer.ranks();
  const ParameterSet& parameters = trainer.parameters();
  std::vector<int64_t> pieces;
  for (const ParameterShard& shard : CutParameters(parameters, ranks.replicas().size())) {
    pieces.push_back(shard.flat_end - shard.flat_begin);
  }
  const ParameterShard own = OwnShard(trainer);
  const absl::Status gathered = ranks.replicas().AllGather(
      parameters.flat().Slice(0, own.flat_begin, own.flat_end), parameters.flat(), pieces);
  if (!gathered.ok()) {
    ranks.Abort(gathered);
    return gathered;
  }
  return AtTheDoor([&] {
    trainer.parameters().RefreshCompute();
    return absl::OkStatus();
  });
}

}  // namespace mnemo
