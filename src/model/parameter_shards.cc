#include "src/model/parameter_shards.h"

#include <algorithm>

#include "src/core/status.h"

namespace mnemo {
namespace {

int64_t RowElements(const ParameterInfo& info) {
  return info.shape.empty() ? 1 : ElementCount(info.shape) / std::max<int64_t>(1, info.shape[0]);
}

int64_t RowCount(const ParameterInfo& info) { return info.shape.empty() ? 1 : info.shape[0]; }

// The row boundary nearest to an offset of the flat buffer: (parameter, row).
std::pair<size_t, int64_t> NearestRow(const ParameterSet& parameters, int64_t offset) {
  size_t i = 0;
  while (i + 1 < parameters.size() && parameters.offset(i + 1) <= offset) ++i;
  const int64_t row = RowElements(parameters.info(i)), count = RowCount(parameters.info(i));
  const int64_t nearest = std::min(count, (offset - parameters.offset(i) + row / 2) / row);
  if (nearest < count) return {i, nearest};
  return {i + 1, 0};
}

int64_t FlatOffset(const ParameterSet& parameters, const std::pair<size_t, int64_t>& cut) {
  if (cut.first >= parameters.size()) return parameters.flat().elements();
  return parameters.offset(cut.first) + cut.second * RowElements(parameters.info(cut.first));
}

}  // namespace

std::vector<ParameterShard> CutParameters(const ParameterSet& parameters, int ranks) {
  MNEMO_CHECK(ranks >= 1);
  const int64_t total = parameters.flat().elements();
  std::vector<ParameterShard> shards(ranks);
  std::pair<size_t, int64_t> begin{0, 0};
  for (int r = 0; r < ranks; ++r) {
    std::pair<size_t, int64_t> end{parameters.size(), 0};
    if (r + 1 < ranks) end = std::max(begin, NearestRow(parameters, total * (r + 1) / ranks));
    ParameterShard& shard = shards[r];
    shard.flat_begin = FlatOffset(parameters, begin);
    shard.flat_end = FlatOffset(parameters, end);
    for (size_t i = begin.first; i < parameters.size() && i <= end.first; ++i) {
      const int64_t first = i == begin.first ? begin.second : 0;
      const int64_t last = i == end.first ? end.second : RowCount(parameters.info(i));
      if (first < last) shard.rows.push_back({static_cast<int>(i), first, last});
    }
    begin = end;
  }
  return shards;
}

Tensor RowsOf(const ParameterSet& parameters, const ParameterRows& rows) {
  const Tensor& whole = parameters[rows.parameter];
  return whole.rank() == 0 ? whole : whole.Slice(0, rows.begin, rows.end);
}

}  // namespace mnemo
