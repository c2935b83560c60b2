// What one rank saves and reads of the parameters that several hold: a shard each, whether the
// optimizer is sharded or not, so that the work is shared out.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "src/job/trainer.h"
#include "src/model/parameter_shards.h"

namespace mnemo {

ParameterShard OwnShard(Trainer& trainer);

// Where in the whole tensor row `row` of what this rank holds of it begins.
Shape RowStart(const ParameterInfo& info, int64_t row);

// When every rank has read its shard: gives all of them all parameters, and makes the compute
// copies again. Every rank calls it; after an error the ranks have been aborted.
absl::Status GatherShards(Trainer& trainer);

}  // namespace mnemo
