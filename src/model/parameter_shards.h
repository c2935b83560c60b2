// How the parameters of a model are dealt out to ranks that share the optimizer's work (ZeRO,
// Rajbhandari et al., arXiv 1910.02054): each rank holds the optimizer's state of one shard, and
// the sum of the gradients is needed only there.
#pragma once

#include <cstdint>
#include <vector>

#include "src/model/parameters.h"

namespace mnemo {

// Rows [begin, end) along dim 0 of one parameter.
struct ParameterRows {
  int parameter = 0;  // index into the ParameterSet
  int64_t begin = 0, end = 0;
  bool operator==(const ParameterRows&) const = default;
};

// A run of whole rows of consecutive parameters: [flat_begin, flat_end) of ParameterSet::flat().
struct ParameterShard {
  std::vector<ParameterRows> rows;
  int64_t flat_begin = 0, flat_end = 0;
};

// `ranks` shards of about the same size that cover everything, padding included; cut at rows, so
// that every piece is a box of its tensor. A pure function. With more ranks than rows some are
// empty.
std::vector<ParameterShard> CutParameters(const ParameterSet& parameters, int ranks);

// The rows of a parameter as a view of it.
Tensor RowsOf(const ParameterSet& parameters, const ParameterRows& rows);

}  // namespace mnemo
